"""Which of those who are waited for have ended, as PostgreSQL can tell.

Numbers of ends do not follow the order of commits here: everybody who is waited for is looked up. A
look is followed by a pause as long as it took, so who wait take half a connection at most.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial

from sitq.backends.postgres.driver import Driver, Session, Turn
from sitq.backends.postgres.queries import Queries
from sitq.backends.postgres.verbs import ended_among, ended_in, get
from sitq.backends.waiters import Waiters, Wakes
from sitq.model import TaskRow

__all__ = ["GroupWaiters", "ServerWaiters"]

CHUNK = 1_000
"""Tasks in one query."""
LONGEST_PAUSE = 0.02
"""Seconds between two looks."""


class GroupWaiters(Wakes[tuple[int, int]]):
    """Those who wait for children to end, by their group and the last end that they know of.

    Args:
        driver: looks at the store.
        sql: the queries.
    """

    def __init__(self, driver: Driver, sql: Queries) -> None:
        super().__init__()
        self._driver = driver
        self._sql = sql

    def _read(self) -> None:
        waited_for = tuple(self._events)
        self._driver.post(
            lambda turn: turn.do(partial(ended_in, sql=self._sql, groups=waited_for)),
            self._wake,
        )


class ServerWaiters(Waiters):
    """Those who wait for a task to end.

    Args:
        driver: looks at the store.
        sql: the queries.
        where: names the store in messages.
        look: takes a look at the store, together with those of others.
    """

    def __init__(
        self,
        driver: Driver,
        sql: Queries,
        where: str,
        look: Callable[[Callable[[Session], TaskRow | None]], Awaitable[TaskRow | None]],
    ) -> None:
        super().__init__(where)
        self._driver = driver
        self._sql = sql
        self._look_together = look

    async def _look(self, id: bytes, largest: int) -> TaskRow | None:
        return await self._look_together(lambda session: get(session, self._sql, id, largest))

    def _read(self) -> None:
        waited_for = tuple(self._events)
        self._driver.post(lambda turn: self._find(turn, waited_for), self._wake)

    def _find(self, turn: Turn, waited_for: tuple[bytes, ...]) -> list[bytes]:
        """The ids of those that have ended, or are gone."""
        ended: list[bytes] = []
        started = time.monotonic()
        for start in range(0, len(waited_for), CHUNK):
            some = waited_for[start : start + CHUNK]
            ended += turn.do(partial(ended_among, sql=self._sql, waited_for=some))
        if self._again or len(waited_for) > CHUNK:
            time.sleep(min(time.monotonic() - started, LONGEST_PAUSE))
        return ended

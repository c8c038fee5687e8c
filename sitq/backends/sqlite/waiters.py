"""Which of those who are waited for have ended, as SQLite can tell.

Ended tasks are numbered in the order of their commits: a wake reads the numbers above the last one
seen, which is cheap, and looks closer only at those that somebody waits for. What gets a connection
runs on the thread of the reader, one after the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from sqlite3 import Connection
from typing import Any

from sitq.backends.sqlite.connect import Database
from sitq.backends.sqlite.driver import Driver
from sitq.backends.sqlite.queries import SQL
from sitq.backends.sqlite.verbs import get
from sitq.backends.waiters import Waiters
from sitq.model import TaskRow

__all__ = ["FileWaiters"]

MOST_UNSEEN = 10_000
"""Ended tasks that a wake goes through; where there are more, all who wait look for themselves."""


class FileWaiters(Waiters):
    """Those who wait for a task to end.

    Args:
        reader: has the connection that is looked through.
        database: what that leads to.
        look: takes a look at that connection, together with those of others.
    """

    def __init__(
        self,
        reader: Driver,
        database: Database,
        look: Callable[[Callable[[Connection], TaskRow | None]], Awaitable[TaskRow | None]],
    ) -> None:
        super().__init__(database.path)
        self._reader = reader
        self._look_together = look
        self._database = database
        self._seen: int | None = None
        self._pruned = 0

    async def _look(self, id: bytes, largest: int) -> TaskRow | None:
        return await self._look_together(partial(self._look_at, id, largest))

    def _look_at(self, id: bytes, largest: int, connection: Connection) -> TaskRow | None:
        if self._seen is None:
            meta = dict(connection.execute(SQL["meta"]).fetchall())
            self._seen, self._pruned = meta["ended"], meta["pruned"]
        return get(connection, id, largest)

    def _read(self) -> None:
        self._reader.post(lambda c: self._database.read(c, self._find), self._wake)

    def _find(self, connection: Connection) -> set[bytes] | None:
        """The ids that are waited for and may have ended since the last look; None for all."""
        meta = dict(connection.execute(SQL["meta"]).fetchall())
        unseen = 0 if self._seen is None else meta["ended"] - self._seen
        is_long = unseen > MOST_UNSEEN + 10 * len(self._events)
        if is_long or unseen < 0 or meta["pruned"] != self._pruned:  # < 0: it was started anew
            self._pruned, self._seen = meta["pruned"], meta["ended"]
            return None
        ended: set[bytes] = set()
        while self._seen is not None and self._seen < meta["ended"]:
            span = (self._seen, meta["ended"])
            rows: list[Any] = connection.execute(SQL["ended_since"], span).fetchall()
            if not rows:
                break
            self._seen = rows[-1][0]
            ended.update(id for _, id in rows if id in self._events)
        return ended

"""Waits for the ends of tasks: one query a wake, however many wait.

What this process settles is known by number, and wakes without any query. For the rest, ended tasks
are numbered in the order of their commits: a wake reads the numbers above the last one seen, which
is cheap, and looks closer only at those that somebody waits for. Everything in `look` and `_read`
runs on the thread of the reader, one after the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from sqlite3 import Connection
from typing import Any, TypeVar

import anyio

from sitq.backends.sqlite.connect import Database
from sitq.backends.sqlite.driver import Driver
from sitq.backends.sqlite.queries import SQL
from sitq.backends.sqlite.verbs import get
from sitq.errors import NotOpen
from sitq.lifecycle import TERMINAL
from sitq.model import TaskRow

__all__ = ["Waiters"]

K = TypeVar("K")
MOST_UNSEEN = 10_000
"""Ended tasks that a wake goes through; where there are more, all who wait look for themselves."""


class Waiters:
    """Those who wait for a task to end, by the id of the task.

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
        self._reader = reader
        self._look_together = look
        self._database = database
        self._events: dict[bytes, list[anyio.Event]] = defaultdict(list)
        self._by_seq: dict[int, list[anyio.Event]] = defaultdict(list)
        self._looking: set[anyio.Event] = set()
        """Of those who do not know yet in which state their task is."""
        self._reading = False
        self._again = False
        self._seen: int | None = None
        self._pruned = 0
        self._closed = False

    async def ended(self, id: bytes, largest: int) -> TaskRow | None:
        """Wait until the task has ended; None when there is no such task (any more)."""
        while True:
            if self._closed:
                raise NotOpen(f"{self._database.path} was closed while the task was waited for")
            event = anyio.Event()
            self._events[id].append(event)
            self._looking.add(event)
            try:
                row = await self._look_together(partial(self._look, id, largest))
                if row is None or row.state in TERMINAL:
                    return row
                await self._wait(row.seq, event)
            finally:
                self._looking.discard(event)
                _leave(self._events, id, event)

    def changed(self) -> None:
        """Something changed in the store: see whom it concerns. Called on the event loop."""
        if not self._events:
            return
        self._again = self._reading
        if not self._reading:
            self._reading = True
            self._reader.post(lambda c: self._database.read(c, self._read), self._wake)

    def ended_here(self, seqs: Iterable[int]) -> None:
        """This process has settled these tasks. Called on the event loop."""
        for seq in seqs:
            for event in self._by_seq.get(seq, ()):
                event.set()
        for event in self._looking:
            event.set()

    def close(self) -> None:
        """Nobody can wait any longer."""
        self._closed = True
        for events in self._events.values():
            for event in events:
                event.set()

    async def _wait(self, seq: int, event: anyio.Event) -> None:
        self._looking.discard(event)
        self._by_seq[seq].append(event)
        try:
            await event.wait()
        finally:
            _leave(self._by_seq, seq, event)

    def _look(self, id: bytes, largest: int, connection: Connection) -> TaskRow | None:
        if self._seen is None:
            meta = dict(connection.execute(SQL["meta"]).fetchall())
            self._seen, self._pruned = meta["ended"], meta["pruned"]
        return get(connection, id, largest)

    def _read(self, connection: Connection) -> set[bytes] | None:
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

    def _wake(self, ended: set[bytes] | None, error: BaseException | None) -> None:
        self._reading = False
        for id in tuple(self._events) if ended is None or error is not None else ended:
            for event in self._events.get(id, ()):
                event.set()
        if self._again:
            self._again = False
            self.changed()


def _leave(waiting: dict[K, list[anyio.Event]], key: K, event: anyio.Event) -> None:
    events = waiting[key]
    events.remove(event)
    if not events:
        del waiting[key]

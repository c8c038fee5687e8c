"""Waits for the ends of tasks: one query a wake, however many wait.

What this process settles is known by number, and wakes without any query. For the rest the store is
asked, at each change, which of those who are waited for have ended: how is the store's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection, Generator, Iterable
from contextlib import contextmanager
from typing import Generic, TypeVar

import anyio

from sitq.errors import NotOpen
from sitq.lifecycle import TERMINAL
from sitq.model import TaskRow

__all__ = ["Waiters", "Wakes"]

K = TypeVar("K")


class Wakes(ABC, Generic[K]):
    """Those who wait until the store has something new about what they name."""

    def __init__(self) -> None:
        self._events: dict[K, list[anyio.Event]] = defaultdict(list)
        self._reading = False
        self._again = False

    @abstractmethod
    def _read(self) -> None:
        """Have it looked up of whom in ``self._events`` there may be news; `_wake` is told."""

    @contextmanager
    def waiting(self, key: K) -> Generator[anyio.Event]:
        """While open, news set the event. To be opened before who waits looks himself."""
        event = anyio.Event()
        self._events[key].append(event)
        try:
            yield event
        finally:
            _leave(self._events, key, event)

    def changed(self) -> None:
        """Something changed in the store: see whom it concerns. Called on the event loop."""
        if not self._events:
            return
        self._again = self._reading
        if not self._reading:
            self._reading = True
            self._read()

    def close(self) -> None:
        """Nobody can wait any longer."""
        for events in self._events.values():
            for event in events:
                event.set()

    def _wake(self, news: Collection[K] | None, error: BaseException | None) -> None:
        """There may be news of these, or everybody (None) is to look. On the loop."""
        self._reading = False
        for key in tuple(self._events) if news is None or error is not None else news:
            for event in self._events.get(key, ()):
                event.set()
        if self._again:
            self._again = False
            self.changed()


class Waiters(Wakes[bytes]):
    """Those who wait for a task to end, by the id of the task.

    Args:
        where: names the store in messages.
    """

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where
        self._by_seq: dict[int, list[anyio.Event]] = defaultdict(list)
        self._looking: set[anyio.Event] = set()
        """Of those who do not know yet in which state their task is."""
        self._closed = False

    @abstractmethod
    async def _look(self, id: bytes, largest: int) -> TaskRow | None:
        """The task as it is now. Its value is read only up to ``largest`` bytes."""

    async def ended(self, id: bytes, largest: int) -> TaskRow | None:
        """Wait until the task has ended; None when there is no such task (any more)."""
        while True:
            if self._closed:
                raise NotOpen(f"{self._where} was closed while the task was waited for")
            with self.waiting(id) as event:
                self._looking.add(event)
                try:
                    row = await self._look(id, largest)
                    if row is None or row.state in TERMINAL:
                        return row
                    await self._wait(row.seq, event)
                finally:
                    self._looking.discard(event)

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
        super().close()

    async def _wait(self, seq: int, event: anyio.Event) -> None:
        self._looking.discard(event)
        self._by_seq[seq].append(event)
        try:
            await event.wait()
        finally:
            _leave(self._by_seq, seq, event)


def _leave(waiting: dict[K, list[anyio.Event]], key: K, event: anyio.Event) -> None:
    events = waiting[key]
    events.remove(event)
    if not events:
        del waiting[key]

"""Sees what a worker does: when it finds nothing to run, and what it brings to its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NamedTuple

from sitq.backends.base import Backend, Changes, Wanted
from sitq.lifecycle import TERMINAL
from sitq.model import Change, Reservation

__all__ = ["Nothing", "Watched"]


class Nothing(NamedTuple):
    """That a worker has looked for work and found nothing."""

    token: int
    """Where the count of changes stood before."""
    due: float | None
    """When the next task is due."""


class Watched:
    """A backend for one worker: its runs are counted, and their ends noted.

    Args:
        backend: does all of it.
        limit: how many runs may be begun.
    """

    def __init__(self, backend: Backend, limit: int) -> None:
        self.backend: Backend = backend
        self.left: int = limit
        """How many runs may be begun yet."""
        self.nothing: Nothing | None = None
        """What the worker found when it looked last, if that was nothing."""
        self.ended: dict[int, int] = {}
        """The ``seq`` of the tasks that ended here, with the number of the end."""
        self.news: Changes = Changes()
        """Whenever the worker has found nothing, or has brought something home."""

        self._ends = count()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    async def __aenter__(self) -> Backend:
        return await self.backend.__aenter__()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.backend.__aexit__(*exc_info)

    async def reserve(
        self, worker: int, wanted: Wanted, deliver: Callable[[list[Reservation]], None]
    ) -> float | None:
        before, due = self.left, None
        token = self.backend.token()
        self.nothing = None

        def receive(tasks: list[Reservation]) -> None:
            self.left -= len(tasks)
            deliver(tasks)

        if before:
            fewer = wanted._replace(limit=min(wanted.limit, before))
            due = await self.backend.reserve(worker, fewer, receive)
        if self.left == before:
            self.nothing = Nothing(token, due)
            self.news.notify()
        return due

    async def settle(
        self,
        worker: int,
        changes: Sequence[Change],
        deliver: Callable[[set[int]], None] | None = None,
    ) -> set[int]:
        def settled(seqs: set[int]) -> None:
            for change in changes:
                if change.seq in seqs and change.state in TERMINAL:
                    self.ended[change.seq] = next(self._ends)
            if deliver is not None:
                deliver(seqs)

        try:
            return await self.backend.settle(worker, changes, settled)
        finally:
            self.news.notify()

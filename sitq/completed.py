"""Iterates over the children of a group as they end. A class: no generator is to hold a scope."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from sitq.backends.base import Backend
from sitq.context import while_waiting
from sitq.handle import TaskHandle
from sitq.model import ChildEnd, Group
from sitq.serialization import Serializer

__all__ = ["Completed"]


class Completed:
    """Yields the children of a group in the order in which they end: ``async for handle in ...``.

    Args:
        backend: where the group is.
        serializer: reads the results.
        group: the group.
        has_enqueued: whether its parent has come to this child.
    """

    def __init__(
        self,
        backend: Backend,
        serializer: Serializer,
        group: Group,
        has_enqueued: Callable[[str], bool],
    ) -> None:
        self._backend = backend
        self._serializer = serializer
        self._group = group
        self._has_enqueued = has_enqueued
        self._last = 0
        self._ready: deque[bytes] = deque()
        self._early: list[ChildEnd] = []
        """Ended, and not enqueued yet by this run of the parent: an earlier one did that."""

    def __aiter__(self) -> Completed:
        return self

    async def __anext__(self) -> TaskHandle[Any]:
        while not self._ready:
            async with while_waiting():
                ends = await self._backend.ended_children(self._group, self._last)
            found = [*self._early, *ends]
            self._early = [end for end in found if not self._has_enqueued(end.child)]
            self._ready.extend(end.id for end in found if self._has_enqueued(end.child))
            if ends:
                self._last = ends[-1].number
            elif not self._ready:
                raise StopAsyncIteration
        return TaskHandle(self._ready.popleft(), self._backend, self._serializer)

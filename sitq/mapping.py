"""Maps a task function over many items: a task each, and only so many of them at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, Generic, TypeVar
from uuid import UUID

from anyio import get_cancelled_exc_class

from sitq.backends.base import Backend
from sitq.context import while_waiting
from sitq.errors import InvalidOption, TaskNotFound, UsageError
from sitq.group import TaskGroup
from sitq.handle import TaskHandle
from sitq.lifecycle import TERMINAL
from sitq.model import ChildEnd, State
from sitq.naming import shown
from sitq.registry import Call, TaskFunction
from sitq.serialization import Serializer, max_bytes, unpack

__all__ = ["Mapped"]

R = TypeVar("R")


class Mapped(Generic[R]):
    """The results of a function over items: ``async with`` it, then ``async for value in`` it.

    Leaving the block cancels the tasks whose results nobody took.
    """

    def __init__(
        self,
        backend: Backend,
        serializer: Serializer,
        group: TaskGroup,
        function: TaskFunction[[Any], R],
        items: Iterable[Any],
        limit: int,
        *,
        ordered: bool,
    ) -> None:
        if not isinstance(items, Iterable):
            raise InvalidOption(f"map takes an iterable of arguments, not {shown(items)}")
        if function.options.key is not None or function.options.child is not None:
            raise InvalidOption("map makes a task for each item: give it neither key nor child")
        if function.options.connection is not None:
            raise InvalidOption("a task of a map is stored by its group; give it no connection")
        self._backend = backend
        self._serializer = serializer
        self._nursery = group
        self._function = function
        self._items: Iterator[Any] = iter(items)
        self._limit = limit
        self._ordered = ordered
        self._calls: list[Call[R]] = []
        """Taken from the items, and not enqueued yet."""
        self._is_fed = False
        self._is_cut = False
        self._window: dict[bytes, None] = {}
        """Enqueued, and not yielded yet; in the order of the items."""
        self._ends: dict[bytes, ChildEnd] = {}
        """Of these, what has ended."""
        self._early: set[bytes] = set()
        """Ended before this run of the parent came to them: an earlier one has enqueued them."""
        self._last = 0

    async def __aenter__(self) -> Mapped[R]:
        await self._nursery.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if exc is None and (self._window or not self._is_fed):
            try:
                await self._nursery.cancel()
            except BaseException as error:
                await self._nursery.__aexit__(type(error), error, error.__traceback__)
                raise
        return await self._nursery.__aexit__(exc_type, exc, traceback)

    @property
    def ahead(self) -> int:
        """How many items were taken whose results were not."""
        return len(self._window)

    def __aiter__(self) -> Mapped[R]:
        return self

    async def __anext__(self) -> R:
        while True:
            await self._feed()
            if not self._window:
                raise StopAsyncIteration
            id = next(iter(self._window if self._ordered else self._ends), None)
            if id in self._ends:
                del self._window[id]
                return await self._value(self._ends.pop(id))
            await self._look()

    async def _feed(self) -> None:
        """Enqueue more, when half of what may be ahead is taken."""
        if self._is_cut:
            raise UsageError("the map was cancelled while it enqueued; leave its block")
        if not self._calls and (self._is_fed or len(self._window) > self._limit // 2):
            return
        room = self._limit - len(self._window)
        if not self._calls:
            self._calls = [self._function.call(item) for item in islice(self._items, room)]
            self._is_fed = len(self._calls) < room
        try:
            handles = await self._nursery.enqueue_many(self._calls)
        except get_cancelled_exc_class():
            self._is_cut = True  # they may be stored, or not
            raise
        self._calls = []
        ids = [handle.id.bytes for handle in handles]
        self._window.update(dict.fromkeys(ids))
        for id in self._early.intersection(ids):
            await self._look_at(id)

    async def _look(self) -> None:
        async with while_waiting():
            ends = await self._backend.ended_children(
                self._nursery.group, self._last, max_bytes(self._serializer)
            )
        if not ends:  # all have ended, and yet not all of these were told of
            for id in self._window.keys() - self._ends.keys():
                await self._look_at(id)
        for end in ends:
            self._last = end.number
            if end.id in self._window:
                self._ends[end.id] = end
            else:
                self._early.add(end.id)

    async def _look_at(self, id: bytes) -> None:
        row = await self._backend.get(id, max_bytes(self._serializer))
        self._early.discard(id)
        if row is None:
            raise TaskNotFound(f"a task of the map is gone: {UUID(bytes=id)}")
        if row.state in TERMINAL:
            self._ends[id] = ChildEnd(self._last, id, "", row.state, row.value)

    async def _value(self, end: ChildEnd) -> R:
        if end.state is State.SUCCEEDED:
            return unpack(self._serializer, end.value, f"the result of {self._function.name}")
        return await TaskHandle[R](end.id, self._backend, self._serializer).result()  # it raises

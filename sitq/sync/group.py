"""The durable nursery, and the map over it, for code without an event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar

from sitq.calls import checked_calls
from sitq.group import TaskGroup
from sitq.mapping import Mapped
from sitq.registry import Call, TaskFunction
from sitq.sync.block import Block
from sitq.sync.bridge import Bridge, Each
from sitq.sync.handle import SyncTaskHandle

__all__ = ["Feed", "SyncMapped", "SyncTaskGroup"]

P = ParamSpec("P")
R = TypeVar("R")


class _With:
    """What ``with`` enters and leaves: its block."""

    _block: Block[Any]

    def __enter__(self) -> Self:
        self._block.enter()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return self._block.leave(exc)


class SyncTaskGroup(_With):
    """Tasks that end together, made by `sitq.SyncTaskQueue.task_group`.

    A body that is plain code cannot be interrupted. When a task of the group fails the others are
    cancelled at once; the body's next wait, or next request to the queue, raises
    `concurrent.futures.CancelledError`, and the block then raises what it has to.

    Raises:
        ExceptionGroup: at the end of the block: what its body raised, and a `TaskFailed` for each
            task that failed. `KeyboardInterrupt`, `SystemExit` and the like cancel the tasks, and
            come out as they are.
        LeaseLost: at the end of the block, in a program that stood still for longer than its lease:
            the tasks were cancelled.
    """

    def __init__(self, bridge: Bridge, group: TaskGroup) -> None:
        self._bridge = bridge
        self._group = group
        self._block = Block(bridge, group)

    def enqueue(
        self, function: TaskFunction[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> SyncTaskHandle[R]:
        """Store a call as a child; or find it, if an earlier run of the same task has stored it.

        Raises:
            NotRegistered, InvalidArguments, NotSerializable, ReplayMismatch, KeyTaken, LeaseLost,
            UsageError, StoreError: as `sitq.TaskGroup.enqueue` does.
            concurrent.futures.CancelledError: the group was cancelled.
        """
        handle = self._block.call(lambda: self._group.enqueue(function, *args, **kwargs))
        return SyncTaskHandle(self._bridge, handle)

    def enqueue_many(self, calls: Iterable[Call[R]], /) -> list[SyncTaskHandle[R]]:
        """Store calls as children, all of them or none, as `enqueue` does.

        Raises:
            InvalidOption: something among them is not a call, or there are too many.
        """
        checked = checked_calls(calls)  # which may come from the caller's code: on his thread
        handles = self._block.call(lambda: self._group.enqueue_many(checked))
        return [SyncTaskHandle(self._bridge, handle) for handle in handles]

    def as_completed(self) -> Iterator[SyncTaskHandle[Any]]:
        """The children as they end, also those that have ended before.

        It is over when all have ended that were enqueued.
        """
        handles = Each(self._bridge, self._group.as_completed(), self._block)
        return (SyncTaskHandle(self._bridge, handle) for handle in handles)

    def cancel(self) -> None:
        """Cancel the children, then the body, as far as it waits for something."""
        self._block.call(self._group.cancel)


class Feed(Iterator[Any]):
    """Items that were taken in the thread of a body, for who enqueues them in the portal."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = iter(items)
        self._taken: deque[Any] = deque()

    def fill(self, number: int) -> None:
        """See to it that so many are there, unless there are no more."""
        self._taken.extend(islice(self._items, max(0, number - len(self._taken))))

    def __next__(self) -> Any:
        if not self._taken:
            raise StopIteration
        return self._taken.popleft()


class SyncMapped(_With, Generic[R]):
    """The results of a function over items: ``with`` it, then ``for value in`` it.

    The items are taken in the thread that takes the results. Leaving the block cancels the tasks
    whose results nobody took.
    """

    def __init__(self, bridge: Bridge, mapped: Mapped[R], feed: Feed, limit: int) -> None:
        self._mapped = mapped
        self._feed = feed
        self._limit = limit
        self._block = Block(bridge, mapped)
        self._values = Each(bridge, mapped, self._block)

    def __iter__(self) -> SyncMapped[R]:
        return self

    def __next__(self) -> R:
        self._feed.fill(self._limit - self._mapped.ahead)
        return next(self._values)

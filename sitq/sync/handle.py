"""SyncTaskHandle: what plain code keeps of a task, to wait for its result or to cancel it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar
from uuid import UUID

from sitq.handle import TaskHandle
from sitq.model import State, Task
from sitq.sync.bridge import Bridge, Each

__all__ = ["Named", "SyncTaskHandle", "plain"]

R_co = TypeVar("R_co", covariant=True)


class SyncTaskHandle(Generic[R_co]):
    """A stored task, for code without an event loop. Equal handles name the same task."""

    __slots__ = ("_bridge", "_handle")

    def __init__(self, bridge: Bridge, handle: TaskHandle[R_co]) -> None:
        self._bridge = bridge
        self._handle = handle

    @property
    def id(self) -> UUID:
        """What names the task."""
        return self._handle.id

    def __repr__(self) -> str:
        return f"<SyncTaskHandle {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SyncTaskHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self._handle)

    def result(self, timeout: float | None = None) -> R_co:
        """Wait for the task to end and return what its function returned.

        Ctrl-C ends this wait, and not the task; so does a timeout. Inside a task function it gives
        the slot to others, and waits for one when it is over.

        Args:
            timeout: seconds to wait; None waits as long as it takes.

        Raises:
            TaskFailed: the task failed for good; its ``result.error`` is the error as data.
            TaskCancelled: the task was cancelled.
            TaskNotFound: there is no such task, or it ended and was purged.
            TimeoutError: the task has not ended in time.
            NotSerializable: the stored value cannot be read with this serializer.
            concurrent.futures.CancelledError: the block around, or the task function that waits,
                was cancelled.
        """
        return self._bridge.call(lambda: self._handle.result(timeout))

    def get(self) -> Task | None:
        """The task as it is now; None if there is no such task."""
        return self._bridge.call(self._handle.get)

    def status(self) -> State:
        """The state the task is in now.

        Raises:
            TaskNotFound: there is no such task.
        """
        return self._bridge.call(self._handle.status)

    def watch(self, *, interval: float = 0.5) -> Iterator[Task]:
        """See what becomes of the task: ``for task in handle.watch()``.

        It is the task as it is now, then as it is at each change that is seen, as
        `sitq.TaskHandle.watch` tells, and last as it ended.

        Args:
            interval: seconds between two looks, at least 0.05.

        Raises:
            InvalidOption: the interval is none.
            TaskNotFound: from the iterator: there is no such task, or it was purged meanwhile.
        """
        return Each(self._bridge, self._handle.watch(interval=interval))

    def cancel(self) -> bool:
        """Cancel the task. One that runs is told to end and ends cancelled or finished, never both.

        Returns:
            False if it had ended before.

        Raises:
            TaskNotFound: there is no such task.
        """
        return self._bridge.call(self._handle.cancel)


Named = SyncTaskHandle[Any] | TaskHandle[Any] | UUID | str
"""What names a task."""


def plain(task: Named) -> TaskHandle[Any] | UUID | str:
    """What names a task where there is an event loop."""
    return task.id if isinstance(task, SyncTaskHandle) else task

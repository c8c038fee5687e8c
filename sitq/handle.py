"""TaskHandle: what the caller keeps of a task, to await its result or to cancel it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import anyio

from sitq.backends.base import Backend
from sitq.context import running_task, while_waiting
from sitq.errors import TaskCancelled, TaskFailed, TaskNotFound
from sitq.failure import summary, unpack_error
from sitq.lifecycle import TERMINAL
from sitq.model import (
    Progress,
    ProgressRow,
    Result,
    State,
    Task,
    TaskRow,
    TaskTree,
    WorkerRow,
    WorkerStatus,
)
from sitq.options import check_seconds
from sitq.serialization import Serializer, max_bytes, unpack

__all__ = [
    "TaskHandle",
    "TaskWatch",
    "failure_of",
    "not_found",
    "to_result",
    "to_task",
    "to_tree",
    "to_worker_status",
    "wait_for_row",
]

R_co = TypeVar("R_co", covariant=True)


class TaskHandle(Generic[R_co]):
    """A stored task. Equal handles name the same task."""

    __slots__ = ("_backend", "_id", "_serializer")

    def __init__(self, id: bytes, backend: Backend, serializer: Serializer) -> None:
        self._id = id
        self._backend = backend
        self._serializer = serializer

    @property
    def id(self) -> UUID:
        """What names the task."""
        return UUID(bytes=self._id)

    def __repr__(self) -> str:
        return f"<TaskHandle {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskHandle) and other._id == self._id

    def __hash__(self) -> int:
        return hash(self._id)

    async def result(self, timeout: float | None = None) -> R_co:
        """Wait for the task to end and return what its function returned.

        Cancelling this wait, or letting it time out, does not cancel the task. Inside a task it
        gives the slot to others, and waits for one when it is over.

        Args:
            timeout: seconds to wait; None waits as long as it takes.

        Raises:
            TaskFailed: the task failed for good; its ``result.error`` is the error as data.
            TaskCancelled: the task was cancelled.
            TaskNotFound: there is no such task, or it ended and was purged.
            TimeoutError: the task has not ended in time.
            NotSerializable: the stored value cannot be read with this serializer.
        """
        row = await wait_for_row(self._backend, self._id, timeout, max_bytes(self._serializer))
        if row is None:
            raise not_found(self.id)
        if row.state not in TERMINAL:
            raise TimeoutError(f"task {self.id} ({row.name}) is {row.state} after {timeout} s")
        return value_of(to_result(row, self._serializer))

    async def get(self) -> Task | None:
        """The task as it is now; None if there is no such task."""
        row = await self._backend.get(self._id, 0)
        return None if row is None else to_task(row)

    async def status(self) -> State:
        """The state the task is in now.

        Raises:
            TaskNotFound: there is no such task.
        """
        task = await self.get()
        if task is None:
            raise not_found(self.id)
        return task.state

    def watch(self, *, interval: float = 0.5) -> TaskWatch:
        """See what becomes of the task: ``async for task in handle.watch()``.

        Args:
            interval: seconds between two looks, at least 0.05.

        Raises:
            InvalidOption: the interval is none.
        """
        return TaskWatch(self._backend, self._id, check_seconds("interval", interval, 0.05))

    async def cancel(self) -> bool:
        """Cancel the task. One that runs is told to end and ends cancelled or finished, never both.

        Returns:
            False if it had ended before.

        Raises:
            TaskNotFound: there is no such task.
        """
        state = await self._backend.cancel(self._id)
        if state is None:
            raise not_found(self.id)
        return state in (State.PENDING, State.RUNNING)


class TaskWatch:
    """A task as it is now, then as it is at each change that is seen of its state, of its attempts
    or crashes, of whether it is to be cancelled, and of its progress; last, at once, as it ended.

    Nothing goes on between two items, so a loop can be left at any time. Inside a task it gives
    the slot to others while it waits.

    Raises:
        TaskNotFound: there is no such task, or it was purged meanwhile.
        StoreUnavailable: the store could not be asked; the next item may come.
    """

    __slots__ = ("_backend", "_has_ended", "_id", "_interval", "_seen")

    def __init__(self, backend: Backend, id: bytes, interval: float) -> None:
        self._backend = backend
        self._id = id
        self._interval = interval
        self._seen: tuple[object, ...] | None = None
        self._has_ended = False

    def __aiter__(self) -> TaskWatch:
        return self

    async def __anext__(self) -> Task:
        if self._has_ended:
            raise StopAsyncIteration
        while True:
            row = await self._look()
            if row is None:
                raise not_found(UUID(bytes=self._id))
            seen = (row.state, row.attempts, row.crashes, row.cancel_requested, row.progress)
            if seen != self._seen:
                self._seen = seen
                self._has_ended = row.state in TERMINAL
                return to_task(row)

    async def _look(self) -> TaskRow | None:
        if self._seen is None:
            return await self._backend.get(self._id, 0)
        return await wait_for_row(self._backend, self._id, self._interval, 0)


def not_found(id: UUID) -> TaskNotFound:
    """What says that there is no task with this id."""
    return TaskNotFound(f"there is no task {id}, or it ended and was purged")


def _check_wait(timeout: float) -> float:
    """How long to wait: seconds from 0, `math.inf` for as long as it takes."""
    return math.inf if timeout == math.inf else check_seconds("timeout", timeout)


async def wait_for_row(
    backend: Backend, id: bytes, timeout: float | None, largest: int
) -> TaskRow | None:
    """A task once it has ended, or as it is after ``timeout`` seconds. None if it is absent."""
    limit = math.inf if timeout is None else _check_wait(timeout)
    if running_task.get() is not None:  # what has ended is no reason to give its slot to others
        row = await backend.get(id, largest)
        if row is None or row.state in TERMINAL:
            return row
    async with while_waiting():
        with anyio.move_on_after(limit):
            return await backend.ended(id, largest)
    return await backend.get(id, largest)


def value_of(result: Result) -> Any:
    """What the task returned, or the exception that says why it did not."""
    if result.state is State.SUCCEEDED:
        return result.value
    if result.state is State.CANCELLED:
        raise TaskCancelled(f"task {result.id} ({result.name}) was cancelled")
    raise failure_of(result)


def failure_of(result: Result) -> TaskFailed:
    """What says that a task failed."""
    reason = "for an unknown reason" if result.error is None else f"with {summary(result.error)}"
    return TaskFailed(f"task {result.id} ({result.name}) failed {reason}", result)


def to_result(row: TaskRow, serializer: Serializer) -> Result:
    """The result of a task that has ended."""
    assert row.ended is not None
    value = None
    if row.state is State.SUCCEEDED:
        value = unpack(serializer, row.value, f"the result of {row.name}")
    return Result(
        id=UUID(bytes=row.id),
        name=row.name,
        queue=row.queue,
        state=row.state,
        value=value,
        error=None if row.error is None else unpack_error(row.error),
        attempts=row.attempts,
        enqueued_at=moment(row.enqueued),
        started_at=_moment_or_none(row.started),
        ended_at=moment(row.ended),
    )


def to_task(row: TaskRow) -> Task:
    """A task as users read it."""
    return Task(
        id=UUID(bytes=row.id),
        seq=row.seq,
        name=row.name,
        queue=row.queue,
        state=row.state,
        priority=row.priority,
        key=row.key,
        attempts=row.attempts,
        crashes=row.crashes,
        cancel_requested=row.cancel_requested,
        enqueued_at=moment(row.enqueued),
        run_at=moment(row.run_at),
        deadline=_moment_or_none(row.deadline),
        started_at=_moment_or_none(row.started),
        ended_at=_moment_or_none(row.ended),
        error=None if row.error is None else unpack_error(row.error),
        progress=None if row.progress is None else _to_progress(row.progress),
    )


def _to_progress(row: ProgressRow) -> Progress:
    return Progress(row.done, row.total, row.note, moment(row.at))


def to_tree(rows: Sequence[tuple[int | None, TaskRow]]) -> TaskTree | None:
    """The tree of these tasks, each with the number of its parent; parents come first."""
    children: defaultdict[int, list[TaskTree]] = defaultdict(list)
    for parent, row in reversed(rows):
        below = sorted(children.pop(row.seq, ()), key=lambda tree: tree.task.seq)
        tree = TaskTree(to_task(row), tuple(below))
        if parent is None:
            return tree
        children[parent].append(tree)
    return None


def to_worker_status(row: WorkerRow) -> WorkerStatus:
    """A worker as users read it."""
    return WorkerStatus(
        id=row.id,
        host=row.host,
        pid=row.pid,
        queues=row.queues,
        concurrency=row.concurrency,
        lease=row.lease,
        started_at=moment(row.started),
        silent=row.silent,
        stuck=row.stuck,
        lag=row.lag,
        held=row.held,
    )


def moment(seconds: float) -> datetime:
    """A point in time of the store."""
    return datetime.fromtimestamp(seconds, UTC)


def _moment_or_none(seconds: float | None) -> datetime | None:
    return None if seconds is None else moment(seconds)

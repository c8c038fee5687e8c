"""TaskQueue: stores calls of task functions, and tells how they ended."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Final, ParamSpec, TypeVar
from uuid import UUID

from sitq.backends.base import Backend, Filter
from sitq.errors import InvalidOption, NotOpen, TaskNotFound, UsageError, WrongState
from sitq.handle import TaskHandle, to_result, to_task, to_worker_status, wait_for_row
from sitq.lifecycle import TERMINAL
from sitq.model import NewTask, Result, State, Task, WorkerStatus
from sitq.naming import shown
from sitq.options import (
    check_backend,
    check_key,
    check_name,
    check_seconds,
    check_serializer,
    check_whole,
)
from sitq.registry import Call, TaskFunction, check_registered
from sitq.serialization import Serializer, default_serializer, max_bytes, pack_arguments

__all__ = ["TaskQueue"]

P = ParamSpec("P")
R = TypeVar("R")

PRUNE_BATCH = 500
MAX_CALLS = 100_000
"""Calls that `TaskQueue.enqueue_many` takes: more would hold the lock of the store for long."""


class TaskQueue:
    """The caller's side of a store of tasks.

    Entering it (``async with TaskQueue(backend) as queue``) opens the backend and leaving it closes
    it; a queue that is never entered opens the backend at its first use.

    Args:
        backend: where the tasks are stored.
        serializer: packs arguments and unpacks results; workers need the same one. Default:
            `sitq.serialization.default_serializer`.

    Raises:
        InvalidOption: the backend or the serializer is none.
    """

    def __init__(self, backend: Backend, *, serializer: Serializer | None = None) -> None:
        self._backend = check_backend(backend)
        self._serializer = check_serializer(
            default_serializer if serializer is None else serializer
        )
        self._entered = 0
        self._closed = False

    async def __aenter__(self) -> TaskQueue:
        await self._backend.open()
        self._entered += 1
        self._closed = False
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._entered -= 1
        self._closed = self._entered == 0
        await self._backend.close()

    async def enqueue(
        self, function: TaskFunction[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[R]:
        """Store a call of a task function. When this returns, the call is stored for good.

        Args:
            function: a function registered with ``@task``, or a copy with options made by its
                ``using``.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Returns:
            a handle of the task; of the live task that holds the ``key``, if there is one.

        Raises:
            NotRegistered: the function was not registered.
            InvalidArguments: the arguments do not fit its signature.
            NotSerializable: an argument cannot be stored.
            StoreError: the store could not take it; nothing was stored.
        """
        check_registered(function).check(args, kwargs)
        [handle] = await self._store([(function, args, kwargs)])
        return handle

    async def enqueue_many(self, calls: Iterable[Call[R]], /) -> list[TaskHandle[R]]:
        """Store many calls, all of them or none.

        Args:
            calls: bound calls, such as ``fetch.call("u")``; up to 100,000.

        Returns:
            a handle for each call, in their order.

        Raises:
            InvalidOption: something among them is not a call, or there are too many.
            NotSerializable: an argument cannot be stored.
            StoreError: the store could not take them; nothing was stored.
        """
        parts: list[tuple[TaskFunction[..., R], tuple[Any, ...], Mapping[str, Any]]] = []
        if not isinstance(calls, Iterable):
            raise InvalidOption(f"enqueue_many takes a list of calls, not {shown(calls)}")
        for call in calls:
            if not isinstance(call, Call):
                raise InvalidOption(
                    f"enqueue_many takes calls such as fetch.call(...), not {type(call).__name__}"
                )
            function = check_registered(call.function)
            function.check(call.args, call.kwargs)
            parts.append((function, call.args, call.kwargs))
            if len(parts) > MAX_CALLS:
                raise InvalidOption(
                    f"more than {MAX_CALLS} calls are too many for one transaction; "
                    "enqueue them in chunks"
                )
        return await self._store(parts)

    async def get_result(
        self, task: TaskHandle[Any] | UUID | str, timeout: float | None = None
    ) -> Result | None:
        """How a task ended; None while it has not, or when there is no such task.

        Args:
            task: its handle or id.
            timeout: seconds to wait for its end; None does not wait.
        """
        self._check_open()
        id = task_id(task)
        largest = max_bytes(self._serializer)
        if timeout is None:
            row = await self._backend.get(id.bytes, largest)
        else:
            row = await wait_for_row(self._backend, id.bytes, timeout, largest)
        if row is None or row.state not in TERMINAL:
            return None
        return to_result(row, self._serializer)

    def handle(self, task: UUID | str) -> TaskHandle[Any]:
        """A handle of the task with this id. The store is not asked whether there is one."""
        return TaskHandle(task_id(task).bytes, self._backend, self._serializer)

    async def get(self, task: TaskHandle[Any] | UUID | str) -> Task | None:
        """A task as it is now; None if there is no such task."""
        self._check_open()
        row = await self._backend.get(task_id(task).bytes, 0)
        return None if row is None else to_task(row)

    async def find(
        self,
        *,
        state: State | str | None = None,
        queue: str | None = None,
        name: str | None = None,
        key: str | None = None,
        after: Task | int = 0,
        limit: int = 100,
    ) -> list[Task]:
        """Tasks in the order of enqueueing, a page at a time.

        Args:
            state: only tasks in this state.
            queue: only tasks of this queue.
            name: only tasks of the function with this name.
            key: only tasks with this key.
            after: the last task of the page before, or its ``seq``.
            limit: the length of a page, 1 to 10,000.
        """
        self._check_open()
        wanted = _filter(state, queue, name, key)
        start = after.seq if isinstance(after, Task) else check_whole("after", after, 0, 2**63 - 1)
        size = check_whole("limit", limit, 1, 10_000)
        return [to_task(row) for row in await self._backend.find(wanted, after=start, limit=size)]

    async def counts(self, queue: str | None = None) -> Mapping[State, int]:
        """How many tasks are in each state, in all or in one queue."""
        self._check_open()
        return await self._backend.counts(_filter(None, queue).queue)

    async def workers(self) -> list[WorkerStatus]:
        """The workers that have a lease, those that started first at the front."""
        self._check_open()
        return [to_worker_status(row) for row in await self._backend.workers()]

    async def cancel(self, task: TaskHandle[Any] | UUID | str) -> bool:
        """Cancel a task, as `sitq.TaskHandle.cancel` does."""
        self._check_open()
        return await self.handle(task_id(task)).cancel()

    async def retry(self, task: TaskHandle[Any] | UUID | str) -> None:
        """Make a failed or cancelled task pending again, with all its attempts before it.

        Raises:
            TaskNotFound: there is no such task.
            WrongState: it has not ended, or it succeeded.
            KeyTaken: another live task holds its key.
        """
        self._check_open()
        id = task_id(task)
        state = await self._backend.revive(id.bytes)
        if state is None:
            raise TaskNotFound(f"there is no task {id}, or it ended and was purged")
        if state not in (State.FAILED, State.CANCELLED):
            raise WrongState(f"task {id} is {state}; only failed and cancelled ones can be retried")

    async def purge(
        self,
        *,
        older_than: float = 0.0,
        state: State | str | None = None,
        queue: str | None = None,
        name: str | None = None,
    ) -> int:
        """Delete tasks that have ended, with their results.

        Args:
            older_than: only those that ended at least so many seconds ago.
            state: only those in this terminal state.
            queue: only those of this queue.
            name: only those of the function with this name.

        Returns:
            how many were deleted. They are deleted in batches; what was deleted before an error
            stays deleted.
        """
        self._check_open()
        wanted = _filter(state, queue, name)
        if wanted.state is not None and wanted.state not in TERMINAL:
            raise InvalidOption(f"only tasks that have ended can be purged: {state!r}")
        before = self._backend.clock.time() - check_seconds("older_than", older_than)
        total = 0
        last: int | None = 0
        while last is not None:
            deleted, last = await self._backend.prune(
                wanted, ended_before=before, limit=PRUNE_BATCH, after=last
            )
            total += deleted
        return total

    async def _store(
        self, calls: list[tuple[TaskFunction[..., R], tuple[Any, ...], Mapping[str, Any]]]
    ) -> list[TaskHandle[R]]:
        self._check_open()
        now = self._backend.clock.time()
        ids = new_ids(now, len(calls))
        tasks = [self._new_task(id, now, *call) for id, call in zip(ids, calls, strict=True)]
        stored = await self._backend.insert(tasks)
        return [TaskHandle(id, self._backend, self._serializer) for id in stored]

    def _new_task(
        self,
        id: bytes,
        now: float,
        function: TaskFunction[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> NewTask:
        options = function.options
        run_at = now + (options.delay or 0.0)
        if options.run_at is not None:
            run_at = options.run_at.timestamp()
        return NewTask(
            id,
            function.name,
            options.queue,
            options.priority,
            run_at,
            options.key,
            options.call_timeout,
            None if options.deadline is None else options.deadline.timestamp(),
            None if options.call_retry is None else options.call_retry.dump(),
            pack_arguments(self._serializer, args, kwargs, f"the arguments of {function.name}"),
            now,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise NotOpen("the queue was closed; use it inside 'async with queue'")


def new_ids(now: float, number: int) -> list[bytes]:
    """Time-ordered identifiers: UUID version 7, RFC 9562 section 5.7.

    Args:
        now: seconds since 1970-01-01 UTC.
        number: how many.
    """
    time = (int(now * 1000) & 0xFFFF_FFFF_FFFF).to_bytes(6, "big")
    noise = bytearray(os.urandom(10 * number))
    noise[0::10] = noise[0::10].translate(_VERSION)
    noise[2::10] = noise[2::10].translate(_VARIANT)
    rest = bytes(noise)
    return [time + rest[at : at + 10] for at in range(0, 10 * number, 10)]


_VERSION: Final = bytes(7 << 4 | byte & 0xF for byte in range(256))
_VARIANT: Final = bytes(2 << 6 | byte & 0x3F for byte in range(256))


def task_id(task: TaskHandle[Any] | UUID | str) -> UUID:
    """The id that a handle, a UUID or its text names.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(task, TaskHandle):
        return task.id
    if isinstance(task, UUID):
        return task
    try:
        return UUID(task)
    except (ValueError, AttributeError, TypeError):
        raise UsageError(f"a task is named by its handle or id, not by {shown(task)}") from None


def _filter(
    state: State | str | None, queue: str | None, name: str | None = None, key: str | None = None
) -> Filter:
    return Filter(
        _state(state),
        queue if queue is None else check_name("queue", queue),
        name if name is None else check_name("function", name),
        key if key is None else check_key(key),
    )


def _state(state: State | str | None) -> State | None:
    if state is None:
        return None
    try:
        return State(state)
    except Exception:
        known = ", ".join(State)
        raise InvalidOption(f"there is no state {shown(state)}; there are {known}") from None

"""TaskQueue: stores calls of task functions, and tells how they ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from sitq.backends.base import Backend, Filter
from sitq.calls import checked_calls, common_connection, new_tasks, refuse_children
from sitq.clock import to_microsecond
from sitq.errors import InvalidOption, NotOpen, UsageError, WrongState
from sitq.group import INHERIT, Deadline, TaskGroup
from sitq.handle import (
    TaskHandle,
    not_found,
    to_result,
    to_task,
    to_tree,
    to_worker_status,
    wait_for_row,
)
from sitq.lease import Programs
from sitq.lifecycle import TERMINAL
from sitq.mapping import Mapped
from sitq.model import Result, State, Task, TaskTree, WorkerStatus
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
from sitq.serialization import Serializer, default_serializer, max_bytes, unpack_arguments

__all__ = ["TaskQueue"]

P = ParamSpec("P")
R = TypeVar("R")

PRUNE_BATCH = 500


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
        self._programs: Programs | None = None

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

        With ``using(connection=...)`` it is stored when your transaction is committed.

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
            InvalidOption: the store cannot use the ``connection``, or it leads elsewhere.
            UsageError: no transaction is open on the ``connection``, or it is closed.
            NotOpen: the queue was closed, or was not open before a ``connection`` was used.
            StoreError: the store could not take it; nothing was stored.
        """
        [handle] = await self._store([check_registered(function).call(*args, **kwargs)])
        return handle

    async def enqueue_many(self, calls: Iterable[Call[R]], /) -> list[TaskHandle[R]]:
        """Store many calls, all of them or none.

        Args:
            calls: bound calls, such as ``fetch.call("u")``; up to 100,000.

        Returns:
            a handle for each call, in their order.

        Raises:
            InvalidOption: something among them is not a call, or there are too many, or not all
                have the same ``connection``, or the store cannot use that.
            NotSerializable: an argument cannot be stored.
            StoreError: the store could not take them; nothing was stored.
        """
        return await self._store(checked_calls(calls))

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

    def task_group(self, *, deadline: Deadline = INHERIT, detach: bool = False) -> TaskGroup:
        """A durable nursery: ``async with queue.task_group() as tg``, ``await tg.enqueue(...)``.

        The block ends when all its tasks have ended, on whatever workers. Inside a task they are
        its children: if it is run again, it finds them; if it ends, so do they.

        Args:
            deadline: when its tasks fail that have not finished: a datetime with a time zone, or
                `math.inf` for never; default: the deadline that holds where it is entered.
            detach: outside a task: its tasks live on if this program dies.

        Raises:
            InvalidOption: the deadline is none.
        """
        return TaskGroup(
            self._backend, self._serializer, self._programs_here, deadline, detach=detach
        )

    def map(
        self,
        function: TaskFunction[[Any], R],
        items: Iterable[Any],
        /,
        *,
        limit: int = 1_000,
        ordered: bool = True,
    ) -> Mapped[R]:
        """Run a task for each item: ``async with queue.map(f, items) as results``, then
        ``async for value in results``.

        Args:
            function: takes an item.
            items: its arguments; they are taken as results are.
            limit: how many tasks are enqueued ahead of the results that were taken.
            ordered: the results come in the order of the items, or else as they come.

        Raises:
            InvalidOption: there are no items, or ``limit`` is not from 1 to 100,000.
            ExceptionGroup: at the end of the block, as of `task_group`.
        """
        return Mapped(
            self._backend,
            self._serializer,
            self.task_group(),
            check_registered(function),
            items,
            check_whole("limit", limit, 1, 100_000),
            ordered=ordered,
        )

    async def tree(
        self, task: TaskHandle[Any] | UUID | str, *, limit: int = 10_000
    ) -> TaskTree | None:
        """A task with those that it enqueued in groups, and those that they did.

        Args:
            task: its handle or id.
            limit: how many tasks are shown, from the top down.

        Returns:
            the tree as it is now; None if there is no such task.
        """
        self._check_open()
        most = check_whole("limit", limit, 1, 1_000_000)
        return to_tree(await self._backend.tree(task_id(task).bytes, most))

    def handle(self, task: UUID | str) -> TaskHandle[Any]:
        """A handle of the task with this id. The store is not asked whether there is one."""
        return TaskHandle(task_id(task).bytes, self._backend, self._serializer)

    async def get(self, task: TaskHandle[Any] | UUID | str) -> Task | None:
        """A task as it is now; None if there is no such task."""
        self._check_open()
        row = await self._backend.get(task_id(task).bytes, 0)
        return None if row is None else to_task(row)

    async def arguments(
        self, task: TaskHandle[Any] | UUID | str
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The positional and named arguments that a task was enqueued with.

        Args:
            task: its handle or id.

        Returns:
            both; None if there is no such task.

        Raises:
            NotSerializable: they are too large, or cannot be read with this serializer.
        """
        self._check_open()
        id = task_id(task)
        packed = await self._backend.arguments(id.bytes, max_bytes(self._serializer))
        if packed is None and await self._backend.get(id.bytes, 0) is None:
            return None
        return unpack_arguments(self._serializer, packed, f"the arguments of task {id}")

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

    async def queues(self) -> list[str]:
        """The queues that have pending or running tasks, in the order of their names."""
        self._check_open()
        return await self._backend.queues()

    async def workers(self) -> list[WorkerStatus]:
        """The workers that have a lease, those that started first at the front."""
        self._check_open()
        rows = await self._backend.workers()
        return [to_worker_status(row) for row in rows if row.queues != ()]  # others have groups

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
            raise not_found(id)
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
        age = check_seconds("older_than", older_than)
        before = to_microsecond(await self._backend.now() - age)
        total = 0
        last: int | None = 0
        while last is not None:
            deleted, last = await self._backend.prune(
                wanted, ended_before=before, limit=PRUNE_BATCH, after=last
            )
            total += deleted
        return total

    async def _store(self, calls: list[Call[Any]]) -> list[TaskHandle[Any]]:
        self._check_open()
        refuse_children(calls)
        connection = common_connection(calls)
        tasks = new_tasks(calls, self._serializer, await self._backend.now())
        if connection is None:
            stored = await self._backend.insert(tasks)
        else:
            stored = await self._backend.insert_within(connection, tasks)
        return [TaskHandle(id, self._backend, self._serializer) for id in stored]

    def _programs_here(self) -> Programs:
        self._check_open()
        if self._programs is None or not self._programs.is_here():
            self._programs = Programs(self._backend)
        return self._programs

    def _check_open(self) -> None:
        if self._closed:
            raise NotOpen("the queue was closed; use it inside 'async with queue'")


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

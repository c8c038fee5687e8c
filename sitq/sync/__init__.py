"""SyncTaskQueue: a `sitq.TaskQueue` for code without an event loop, through a blocking portal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, Literal, ParamSpec, TypeVar, cast
from uuid import UUID

from sitq.backends.base import Backend
from sitq.backends.url import backend_from_url
from sitq.calls import checked_calls, common_connection, new_tasks, refuse_children
from sitq.errors import InvalidOption
from sitq.group import INHERIT, Deadline
from sitq.handle import TaskHandle
from sitq.model import Result, State, Task, TaskTree, WorkerStatus
from sitq.naming import shown
from sitq.options import check_backend, check_serializer
from sitq.queue import TaskQueue
from sitq.registry import Call, TaskFunction, check_registered
from sitq.serialization import Serializer, default_serializer
from sitq.sync.bridge import Bridge
from sitq.sync.group import Feed, SyncMapped, SyncTaskGroup
from sitq.sync.handle import Named, SyncTaskHandle, plain

__all__ = ["SyncMapped", "SyncTaskGroup", "SyncTaskHandle", "SyncTaskQueue"]

P = ParamSpec("P")
R = TypeVar("R")


class SyncTaskQueue:
    """The caller's side of a store of tasks, for code without an event loop: scripts, threads, web
    applications of plain functions.

    It is a `sitq.TaskQueue` in a thread of its own, and does whatever that does. ``with
    SyncTaskQueue("sqlite:///tasks.db") as queue`` opens the store and closes it. A queue that is
    never entered, such as a global of a module, opens the store at its first use; a program can
    exit without closing it, and what was enqueued is stored.

    Any number of threads use it at the same time. After a fork the child has a store of its own if
    the queue was not open at the fork; if it was, its use in the child raises `NotOpen`.

    Inside a task function that runs in a thread it does what a `sitq.TaskQueue` does in an async
    one: its groups are those of the task, a wait gives the slot to others, and ends with
    `concurrent.futures.CancelledError` when the task is cancelled or its time is up.

    Args:
        backend: where the tasks are stored: a URL, as `sitq.backend_from_url` takes it, or a
            backend that nothing else uses.
        serializer: packs arguments and unpacks results; workers need the same one. Default:
            `sitq.serialization.default_serializer`.
        loop: the kind of event loop in its thread.

    Raises:
        InvalidOption: one of these is none.
        ImportError: what the backend or the loop needs is not installed.
    """

    def __init__(
        self,
        backend: Backend | str,
        *,
        serializer: Serializer | None = None,
        loop: Literal["asyncio", "trio"] = "asyncio",
    ) -> None:
        if loop not in ("asyncio", "trio"):
            raise InvalidOption(f"loop must be 'asyncio' or 'trio': {shown(loop)}")
        import_module(loop)  # or it would turn out later, and elsewhere, that there is no trio
        # As anyio does it: not in the portal, or a child that is forked meanwhile waits for ever.
        import_module(f"anyio._backends._{loop}")
        self._backend = backend_from_url(backend) if isinstance(backend, str) else backend
        check_backend(self._backend)
        self._serializer = check_serializer(
            default_serializer if serializer is None else serializer
        )
        self._queue = TaskQueue(self._backend, serializer=self._serializer)
        self._bridge = Bridge(self._backend, loop)

    def __enter__(self) -> SyncTaskQueue:
        self._bridge.enter()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bridge.leave()

    def close(self) -> None:
        """Close it, however often it was entered: groups that are open are cancelled, who waits
        gets `NotOpen`, and so does who uses it before it is entered again.
        """
        self._bridge.close()

    def enqueue(
        self, function: TaskFunction[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> SyncTaskHandle[R]:
        """Store a call of a task function. When this returns, the call is stored for good.

        With ``using(connection=...)`` it is stored when your transaction is committed. Then the
        connection is used in this thread, and is one of sqlite3 or psycopg.

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
            UsageError: no transaction is open on the ``connection``, or it is closed; or nobody can
                wait here: this is an async task function, or what the queue itself calls.
            NotOpen: the queue was closed, or was open before a fork; or there is a ``connection``
                to an SQLite file without tables of sitq: open the queue once before.
            StoreError: the store could not take it; nothing was stored.
        """
        if check_registered(function).options.connection is not None:
            [handle] = self._store_within([function.call(*args, **kwargs)])
            return handle
        return self._with(self._bridge.call(lambda: self._queue.enqueue(function, *args, **kwargs)))

    def enqueue_many(self, calls: Iterable[Call[R]], /) -> list[SyncTaskHandle[R]]:
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
        checked = checked_calls(calls)
        if common_connection(checked) is not None:
            return self._store_within(checked)
        stored = self._bridge.call(lambda: self._queue.enqueue_many(checked))
        return [self._with(handle) for handle in stored]

    def get_result(self, task: Named, timeout: float | None = None) -> Result | None:
        """How a task ended; None while it has not, or when there is no such task.

        Args:
            task: its handle or id.
            timeout: seconds to wait for its end; None does not wait.
        """
        return self._bridge.call(lambda: self._queue.get_result(plain(task), timeout))

    def task_group(self, *, deadline: Deadline = INHERIT, detach: bool = False) -> SyncTaskGroup:
        """A durable nursery: ``with queue.task_group() as tg``, ``tg.enqueue(...)``.

        The block ends when all its tasks have ended, on whatever workers. Inside a task they are
        its children: if it is run again, it finds them; if it ends, so do they.

        Args:
            deadline: when its tasks fail that have not finished: a datetime with a time zone, or
                `math.inf` for never; default: that of the task that runs here.
            detach: outside a task: its tasks live on if this program dies.

        Raises:
            InvalidOption: the deadline is none.
        """

        async def made() -> SyncTaskGroup:
            group = self._queue.task_group(deadline=deadline, detach=detach)
            return SyncTaskGroup(self._bridge, group)

        return self._bridge.call(made)

    def map(
        self,
        function: TaskFunction[[Any], R],
        items: Iterable[Any],
        /,
        *,
        limit: int = 1_000,
        ordered: bool = True,
    ) -> SyncMapped[R]:
        """Run a task for each item: ``with queue.map(f, items) as results``, then
        ``for value in results``.

        Args:
            function: takes an item.
            items: its arguments; they are taken as results are.
            limit: how many items are taken ahead of the results.
            ordered: the results come in the order of the items, or else as they come.

        Raises:
            InvalidOption: there are no items, or ``limit`` is not from 1 to 100,000.
            ExceptionGroup: at the end of the block, as of `task_group`.
        """
        feed = Feed(items) if isinstance(items, Iterable) else cast("Feed", items)

        async def made() -> SyncMapped[R]:
            mapped = self._queue.map(function, feed, limit=limit, ordered=ordered)
            return SyncMapped(self._bridge, mapped, feed, limit)

        return self._bridge.call(made)

    def tree(self, task: Named, *, limit: int = 10_000) -> TaskTree | None:
        """A task with those that it enqueued in groups, and those that they did.

        Args:
            task: its handle or id.
            limit: how many tasks are shown, from the top down.

        Returns:
            the tree as it is now; None if there is no such task.
        """
        return self._bridge.call(lambda: self._queue.tree(plain(task), limit=limit))

    def handle(self, task: UUID | str) -> SyncTaskHandle[Any]:
        """A handle of the task with this id. The store is not asked whether there is one."""
        return self._with(self._queue.handle(task))

    def get(self, task: Named) -> Task | None:
        """A task as it is now; None if there is no such task."""
        return self._bridge.call(lambda: self._queue.get(plain(task)))

    def arguments(self, task: Named) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The positional and named arguments that a task was enqueued with.

        Args:
            task: its handle or id.

        Returns:
            both; None if there is no such task.

        Raises:
            NotSerializable: they are too large, or cannot be read with this serializer.
        """
        return self._bridge.call(lambda: self._queue.arguments(plain(task)))

    def find(
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
        return self._bridge.call(
            lambda: self._queue.find(
                state=state, queue=queue, name=name, key=key, after=after, limit=limit
            )
        )

    def counts(self, queue: str | None = None) -> Mapping[State, int]:
        """How many tasks are in each state, in all or in one queue."""
        return self._bridge.call(lambda: self._queue.counts(queue))

    def queues(self) -> list[str]:
        """The queues that have pending or running tasks, in the order of their names."""
        return self._bridge.call(self._queue.queues)

    def workers(self) -> list[WorkerStatus]:
        """The workers that have a lease, those that started first at the front."""
        return self._bridge.call(self._queue.workers)

    def cancel(self, task: Named) -> bool:
        """Cancel a task, as `SyncTaskHandle.cancel` does."""
        return self._bridge.call(lambda: self._queue.cancel(plain(task)))

    def retry(self, task: Named) -> None:
        """Make a failed or cancelled task pending again, with all its attempts before it.

        Raises:
            TaskNotFound: there is no such task.
            WrongState: it has not ended, or it succeeded.
            KeyTaken: another live task holds its key.
        """
        return self._bridge.call(lambda: self._queue.retry(plain(task)))

    def purge(
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
        return self._bridge.call(
            lambda: self._queue.purge(older_than=older_than, state=state, queue=queue, name=name)
        )

    def _store_within(self, calls: list[Call[R]]) -> list[SyncTaskHandle[R]]:
        """Store calls in the transaction of their connection, which is of this thread."""
        refuse_children(calls)
        tasks = new_tasks(calls, self._serializer, self._bridge.call(self._backend.now))
        stored = self._backend.insert_here(common_connection(calls), tasks)
        return [self._with(TaskHandle(id, self._backend, self._serializer)) for id in stored]

    def _with(self, handle: TaskHandle[R]) -> SyncTaskHandle[R]:
        return SyncTaskHandle(self._bridge, handle)

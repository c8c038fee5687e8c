"""The durable nursery: a block whose children are tasks, on whatever workers they run.

The rules are those of a task group of anyio or a nursery of trio: the block ends when every child
has ended; one that fails cancels the others and the body; cancelling the block cancels the
children. What differs is that the parent can be run again, on another worker: then its children
are found, not made anew.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from enum import Enum
from types import TracebackType
from typing import Any, Final, Literal, ParamSpec, TypeVar, cast

import anyio
from anyio import CancelScope, create_task_group, get_cancelled_exc_class, move_on_after
from anyio.abc import TaskGroup as LocalGroup

from sitq.backends.base import Backend
from sitq.calls import checked_calls, common_connection, new_tasks
from sitq.clock import step_before, to_microsecond
from sitq.completed import Completed
from sitq.context import Running, running_task, while_waiting
from sitq.errors import DeadlinePassed, InvalidOption, LeaseLost, StoreError, TaskFailed, UsageError
from sitq.handle import TaskHandle, failure_of, to_result
from sitq.lease import Programs
from sitq.model import ChildEnd, Group, NewChild, NewGroup, NewTask, State, TaskRow
from sitq.naming import class_name, shown
from sitq.options import check_moment
from sitq.registry import Call, TaskFunction, check_registered
from sitq.serialization import Serializer, max_bytes

__all__ = ["INHERIT", "Deadline", "TaskGroup"]

P = ParamSpec("P")
R = TypeVar("R")

CANCEL_LIMIT = 5.0
"""Seconds that a block which is cancelled gives its running children to end."""
CLOSE_LIMIT = 10.0
"""Seconds for which a block that ends tries to tell the store."""
SKEW = 0.1
"""Seconds by which a deadline may pass here later than where a child runs."""
_OVERDUE = class_name(DeadlinePassed)


class _Inherit(Enum):
    """The deadline that holds where a group is entered."""

    INHERIT = "inherit"

    def __repr__(self) -> str:
        return "INHERIT"


INHERIT: Final = _Inherit.INHERIT
"""The deadline that holds where the group is entered."""
Deadline = datetime | float | Literal[_Inherit.INHERIT]


class TaskGroup:
    """Tasks that end together, made by `sitq.TaskQueue.task_group`.

    Raises:
        ExceptionGroup: at the end of the block: what its body raised, and a `TaskFailed` for each
            child that failed.
        LeaseLost: at the end of the block, in a program that stood still for longer than its lease:
            the children were cancelled.
    """

    def __init__(
        self,
        backend: Backend,
        serializer: Serializer,
        programs: Callable[[], Programs],
        deadline: Deadline,
        *,
        detach: bool,
    ) -> None:
        self._backend = backend
        self._serializer = serializer
        self._find_programs = programs
        self._programs: Programs | None = None
        self._deadline = _checked(deadline)
        self._detach = detach
        self._run: Running | None = None
        self._group: Group | None = None
        self._host: LocalGroup = create_task_group()
        self._body = CancelScope()
        self._watching = CancelScope(shield=True)
        self._more = anyio.Event()
        self._joined = anyio.Event()
        self._ending = False
        self._ended = False
        self._broken = False
        self._inserting = 0
        self._children = 0
        self._names: set[str] = set()
        self._failures: list[TaskFailed] = []
        self._overdue: list[TaskFailed] = []
        """Of these, what the deadline ended that holds around the block as well."""

    async def __aenter__(self) -> TaskGroup:
        if self._group is not None:
            raise UsageError("a task group is entered once; make another one")
        self._group = await self._open()
        await self._host.__aenter__()
        self._body.__enter__()
        self._host.start_soon(self._watch)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        cancelled = get_cancelled_exc_class()
        try:
            swallowed = self._body.__exit__(exc_type, exc, traceback)
        except BaseException as rest:  # of a group, less the cancellation that it swallowed
            exc, swallowed = rest, False
        cancellation = exc if isinstance(exc, cancelled) and not swallowed else None
        errors = [] if exc is None or swallowed or cancellation else [exc]
        is_joined = False
        try:
            if cancellation is None:
                async with while_waiting():
                    if errors:
                        await self._cancel()
                    await self._join()
                    is_joined = True
        except cancelled as error:
            cancellation = error
        except BaseException as error:  # of the store; and trio raises Ctrl-C anywhere
            errors.append(error)
        # A child of the host: asyncio cancels through every shield, but not out of a task group.
        self._host.start_soon(self._end, is_joined)
        try:
            await self._host.__aexit__(None, None, None)
        except cancelled as error:
            cancellation = cancellation or error
        except BaseExceptionGroup as group:
            errors += group.exceptions
        if cancellation is None:
            cancellation = await self._soon_cancelled()
        errors += self._other_failures(errors, is_overdue=cancellation is not None)
        if errors:
            raise BaseExceptionGroup("unhandled errors in a task group", errors) from None
        if cancellation is not None and cancellation is not exc:
            raise cancellation
        return cancellation is None

    async def enqueue(
        self, function: TaskFunction[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[R]:
        """Store a call as a child; or find it, if an earlier run of the same task has stored it.

        Raises:
            NotRegistered, InvalidArguments, NotSerializable, StoreError: as
                `sitq.TaskQueue.enqueue` does.
            ReplayMismatch: an earlier run of the task enqueued another call in its place.
            KeyTaken: a task that is not of this group holds its key.
            LeaseLost: the task was given to another worker meanwhile.
            UsageError: the group is not open.
        """
        [handle] = await self._store([check_registered(function).call(*args, **kwargs)])
        return handle

    async def enqueue_many(self, calls: Iterable[Call[R]], /) -> list[TaskHandle[R]]:
        """Store calls as children, all of them or none, as `enqueue` does.

        Raises:
            InvalidOption: something among them is not a call, or there are too many.
        """
        return await self._store(checked_calls(calls))

    def as_completed(self) -> Completed:
        """The children as they end, also those that have ended before.

        It is over when all have ended that were enqueued.
        """
        return Completed(self._backend, self._serializer, self._check_open(), self._has_enqueued)

    async def cancel(self) -> None:
        """Cancel the children, then the body, as to cancel the scope of a local task group does."""
        self._check_open()
        await self._cancel()
        self._body.cancel()

    @property
    def group(self) -> Group:
        """The group in the store."""
        return self._check_open()

    async def _open(self) -> Group:
        run = running_task.get()
        if run is None or run.place != self._backend.place:
            self._programs = self._find_programs()
            deadline = await self._its_deadline()
            return await self._programs.open_group(deadline, detach=self._detach)
        if self._detach:
            raise InvalidOption("detach is for programs: the group of a task lives as long as that")
        self._run = run
        task = run.task
        ordinal = run.next_group()
        try:
            deadline = await self._its_deadline()
            new = NewGroup(task.seq, task.fence, task.epoch, ordinal, deadline=deadline)
            return await self._backend.open_group(new)
        except Exception:
            run.forget_group(ordinal)
            raise

    async def _its_deadline(self) -> float | None:
        if self._deadline is not INHERIT:
            return None if self._deadline == math.inf else self._deadline
        until = anyio.current_effective_deadline()
        if until == math.inf:
            return None
        now = await self._backend.now()
        return to_microsecond(now + max(0.0, until - anyio.current_time()))

    async def _store(self, calls: Sequence[Call[Any]]) -> list[TaskHandle[Any]]:
        self._check_open()
        if common_connection(calls) is not None:
            raise InvalidOption("a task of a group is stored by its group; give it no connection")
        now = await self._backend.now()
        group = self._check_open()  # still
        # One step before its parent, so that trees are finished one after the other.
        run_at = None if self._run is None else step_before(self._run.task.run_at)
        tasks = new_tasks(calls, self._serializer, now, run_at, group.deadline)
        before, names = self._children, self._take_names(calls)
        after = self._children
        children = [
            NewChild(task, name, _digest(task)) for task, name in zip(tasks, names, strict=True)
        ]
        self._inserting += 1
        try:
            ids = await self._backend.insert_children(group, children)
        except Exception:  # nothing was stored: a second try is to have the same names
            self._names.difference_update(names)
            if self._children == after:
                self._children = before
            raise
        finally:
            self._inserting -= 1
            self._more.set()
        return [TaskHandle(id, self._backend, self._serializer) for id in ids]

    def _take_names(self, calls: Sequence[Call[Any]]) -> list[str]:
        """What tells each from the other children."""
        given = [call.function.options.child for call in calls]
        named = Counter(name for name in given if name is not None)
        for name, number in named.items():
            if number > 1 or name in self._names:
                raise InvalidOption(f"the group has a child named {shown(name)}; give another name")
        self._names.update(named)
        return [self._number() if name is None else name for name in given]

    def _number(self) -> str:
        self._children += 1
        return f"#{self._children - 1}"

    def _has_enqueued(self, child: str) -> bool:
        """Whether this run has; an earlier run of the same task may have come further."""
        if child.startswith("#") and child[1:].isdecimal():
            return int(child[1:]) < self._children
        return child in self._names

    def _check_open(self) -> Group:
        if self._group is None or self._joined.is_set() or self._ended:
            raise UsageError("the task group is not open: use it inside its block")
        return self._group

    async def _watch(self) -> None:
        """Take the ends of children as they come, and cancel the rest when one failed."""
        group = self._check_open()
        last = 0
        try:
            with self._watching:
                while not self._joined.is_set():
                    self._more = anyio.Event()
                    ends = await self._backend.ended_children(group, last)
                    if ends:
                        last = ends[-1].number
                        await self._take(ends)
                    elif self._is_all() and not self._more.is_set():  # as was so before the look
                        self._joined.set()
                    else:
                        await self._more.wait()
        except StoreError:
            self._broken = True
            raise

    def _is_all(self) -> bool:
        """Whether no more children are to come."""
        return self._ending and not self._inserting

    async def _take(self, ends: Sequence[ChildEnd]) -> None:
        had_failed = bool(self._failures)
        for end in ends:
            if end.state is State.FAILED:
                row = await self._backend.get(end.id, max_bytes(self._serializer))
                if row is not None and row.state is State.FAILED:  # nobody has revived it
                    self._fail(row)
        if self._failures and not had_failed:
            await self._cancel()
            self._body.cancel()

    def _fail(self, row: TaskRow) -> None:
        failure = failure_of(to_result(row, self._serializer))
        self._failures.append(failure)
        error = failure.result.error
        is_overdue = error is not None and error.type == _OVERDUE
        assert self._group is not None
        if is_overdue and self._deadline is INHERIT and row.deadline == self._group.deadline:
            self._overdue.append(failure)

    async def _soon_cancelled(self) -> BaseException | None:
        """The deadline that has ended a child ends the block too: a moment later, perhaps."""
        left = anyio.current_effective_deadline() - anyio.current_time()
        if self._overdue and left <= SKEW:
            try:
                await anyio.sleep(max(0.0, left) + SKEW)
            except get_cancelled_exc_class() as error:
                return error
        return None

    def _other_failures(
        self, errors: Sequence[BaseException], *, is_overdue: bool
    ) -> list[TaskFailed]:
        """What the body did not raise itself, from a `result` that it waited for.

        And not what was ended by the deadline that ends the block as well: that is cancellation.
        """
        raised = {error.result.id for error in errors if isinstance(error, TaskFailed)}
        known = self._overdue if is_overdue else []
        return [one for one in self._failures if one.result.id not in raised and one not in known]

    async def _cancel(self) -> None:
        assert self._group is not None
        await self._backend.cancel_group(self._group)

    async def _join(self) -> None:
        """Wait until every child has ended."""
        self._ending = True
        self._more.set()
        await self._joined.wait()

    async def _end(self, is_joined: bool) -> None:
        """What must be done whatever happens: nobody watches any more, the store is told."""
        with CancelScope(shield=True):
            if not is_joined:
                await self._leave()
            self._ended = True
            self._watching.cancel()
            if self._programs is not None and self._group is not None:
                await self._close(self._programs, self._group)

    async def _leave(self) -> None:
        """The children are cancelled as well, unless only this run of their parent ends."""
        assert self._group is not None
        if self._broken or (self._run is not None and self._run.only_run_ends):
            return
        with suppress(StoreError):  # the end of the parent, or of the lease, cancels them too
            with move_on_after(CANCEL_LIMIT):
                await self._cancel()
                await self._join()
            if not self._joined.is_set():
                with move_on_after(CLOSE_LIMIT):
                    await self._backend.cancel_group(self._group, at_once=True)

    async def _close(self, programs: Programs, group: Group) -> None:
        """A program forgets the group."""
        with move_on_after(CLOSE_LIMIT):
            if not await programs.close_group(group):
                raise LeaseLost("the program stood still for so long that its lease lapsed")


def _checked(deadline: Deadline) -> float | Literal[_Inherit.INHERIT]:
    if deadline is INHERIT or deadline == math.inf:
        return cast("Any", deadline)
    if isinstance(deadline, float):
        raise InvalidOption(f"deadline is a datetime with a time zone, or math.inf: {deadline!r}")
    return to_microsecond(check_moment("deadline", deadline).timestamp())


def _digest(task: NewTask) -> bytes:
    """Of what a task calls: an earlier run of its parent must have enqueued the same."""
    from hashlib import blake2b  # slow to import, and only needed in groups

    return blake2b(task.name.encode() + b"\0" + task.arguments, digest_size=16).digest()

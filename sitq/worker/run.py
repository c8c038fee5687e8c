"""Runs one task in a cancel scope of its own and says how it ended. It returns normally, always."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from enum import StrEnum
from functools import partial
from types import CoroutineType
from typing import Any, Protocol
from uuid import UUID

import anyio
from anyio import (
    CancelScope,
    CapacityLimiter,
    TaskHandle,
    WouldBlock,
    get_cancelled_exc_class,
    to_thread,
)

from sitq.context import CurrentTask, running_task
from sitq.errors import (
    DeadlinePassed,
    InvalidOption,
    NotSerializable,
    ProcessLost,
    TaskTimedOut,
)
from sitq.handle import moment
from sitq.model import Outcome, OutcomeKind, Reservation
from sitq.options import Executor
from sitq.registry import TaskFunction
from sitq.retry import NO_RETRY, Retry
from sitq.serialization import Serializer, pack, unpack_arguments
from sitq.worker.outcome import failed
from sitq.worker.processes import Processes
from sitq.worker.slot import Slot

__all__ = ["Cause", "Host", "Run", "perform"]


class Cause(StrEnum):
    """Why a run's scope was cancelled; recorded before it is."""

    TIMEOUT = "timeout"
    CANCEL = "cancel"
    SHUTDOWN = "shutdown"
    HOST_CANCELLED = "host cancelled"
    LEASE_LOST = "lease lost"


_NO_LIMIT = nullcontext()
_ENDS: Mapping[Cause | None, Outcome] = {
    Cause.CANCEL: Outcome(OutcomeKind.CANCELLED),
    Cause.SHUTDOWN: Outcome(OutcomeKind.RELEASED),
    Cause.HOST_CANCELLED: Outcome(OutcomeKind.RELEASED),
    Cause.LEASE_LOST: Outcome(OutcomeKind.LOST),
}

_ONLY_RUN = (Cause.SHUTDOWN, Cause.HOST_CANCELLED, Cause.LEASE_LOST)


class Host(Protocol):
    """The worker, as its runs know it."""

    is_closing: Callable[[], bool]
    """Whether it has cancelled its own task group, or is cancelled itself."""
    resources: Any
    """What its tasks share."""
    processes: Processes
    """Where functions run that are declared so."""

    @property
    def place(self) -> str:
        """Names its store."""
        ...

    def rests(self, run: Run) -> None:
        """The run only waits from now on."""
        ...

    def tells(self, run: Run, done: float, total: float | None, note: str) -> None:
        """The run tells of its progress. From any thread."""
        ...

    def is_stopping(self) -> bool:
        """Whether nothing is to be reserved any more."""
        ...


class Run:
    """A task that this worker holds: its reservation, and its outcome once it is known.

    Args:
        task: the reservation.
        function: what it calls; None if this worker does not know it.
        guard: the innermost scope, by which a run that will not end is spared more cancellation.
        host: the worker.
    """

    __slots__ = (
        "_groups",
        "cause",
        "ends_at",
        "ends_by_deadline",
        "function",
        "guard",
        "handle",
        "host",
        "limit",
        "outcome",
        "retry",
        "slot",
        "stuck",
        "task",
        "timeout",
        "told",
        "waits",
    )

    def __init__(
        self,
        task: Reservation,
        function: TaskFunction[..., Any] | None,
        guard: CancelScope,
        host: Host,
    ) -> None:
        self.task: Reservation = task
        self.host: Host = host
        self.slot: Slot | None = None
        """Its place among those that run."""
        self.waits: int = 0
        """How many waits for other tasks go on in it."""
        self._groups = 0
        self.guard: CancelScope = guard
        self.function: TaskFunction[..., Any] | None = function
        self.handle: TaskHandle[None] | None = None
        """Of the anyio task that it is. Its scope is the outermost: every cause is told there."""
        self.limit: CancelScope | None = None
        """The scope with its timeout or deadline, if it has one."""
        self.cause: Cause | None = None
        self.told: float = math.inf
        """When it was told to end, by a clock that is the same in tasks, callbacks and threads."""
        self.ends_at: float = math.inf
        """When its time is up, by the same clock."""
        self.ends_by_deadline: bool = False
        self.stuck: bool = False
        self.outcome: Outcome | None = None
        self.retry: Retry = _policy(task, function)
        self.timeout: float | None = task.timeout
        if self.timeout is None and function is not None:
            self.timeout = function.options.timeout

    def describe(self) -> CurrentTask:
        """The task, as its function may know it."""
        task = self.task
        return CurrentTask(
            id=UUID(bytes=task.id),
            name=task.name,
            queue=task.queue,
            attempt=task.attempts + 1,
            enqueued_at=moment(task.enqueued),
            deadline=None if task.deadline is None else moment(task.deadline),
            _run=self,
        )

    @property
    def place(self) -> str:
        """The store of the task."""
        return self.host.place

    @property
    def resources(self) -> Any:
        """What the tasks of its worker share."""
        return self.host.resources

    @property
    def only_run_ends(self) -> bool:
        """Whether the run ends and the task does not: it goes on in another one."""
        return self.cause in _ONLY_RUN or (self.cause is None and self.host.is_closing())

    def next_group(self) -> int:
        """How many groups it has opened before."""
        self._groups += 1
        return self._groups - 1

    def forget_group(self, ordinal: int) -> None:
        """It was not opened: a second try is to have the same place."""
        if self._groups == ordinal + 1:
            self._groups = ordinal

    def tell(self, done: float, total: float | None, note: str) -> None:
        """Its function tells how far it is. From any thread."""
        self.host.tells(self, done, total, note)

    @asynccontextmanager
    async def waiting(self) -> AsyncGenerator[None]:
        """In this block it only waits, and its slot is for others.

        Where several waits go on at once it has none until the last one ends: what they wait for
        may need it.
        """
        slot = self.slot
        assert slot is not None
        self.waits += 1
        slot.give_back()
        if self.waits == 1:
            self.host.rests(self)
        is_to_end = False
        try:
            yield
        except get_cancelled_exc_class():
            is_to_end = True  # the run, or a part of it: no wait under cancellation
            raise
        finally:
            self.waits -= 1
            if not self.waits and is_to_end and not self.cancel_called:
                with suppress(WouldBlock):
                    slot.take_nowait()
            elif not self.waits and not is_to_end:
                await slot.take()
                if self.waits:  # another part has begun to wait meanwhile
                    slot.give_back()

    @property
    def cancel_called(self) -> bool:
        """Whether it is to end. From any thread."""
        return self.told < math.inf or time.monotonic() >= self.ends_at

    def stop(self, cause: Cause) -> None:
        """Cancel the run, for this reason unless there is one already."""
        if self.cause is None:
            self.cause = Cause.TIMEOUT if self.timed_out() else cause
        self.told = min(self.told, time.monotonic())
        if self.handle is not None:
            self.handle.cancel()

    def timed_out(self) -> bool:
        """Whether its timeout or deadline has cancelled it."""
        return self.limit is not None and self.limit.cancel_called

    def becomes_stuck(self, grace: float) -> bool:
        """Whether it turns out now that it does not end, ``grace`` seconds after it was told to.

        From then on it is spared more cancellation, which it would only swallow, again and again.
        """
        if self.stuck or self.handle is None or self.outcome is not None:
            return False
        self.stuck = self.guard.shield = time.monotonic() >= min(self.told, self.ends_at) + grace
        return self.stuck


async def perform(
    run: Run,
    serializer: Serializer,
    threads: CapacityLimiter,
    now: Callable[[], Awaitable[float]],
) -> None:
    """Call the function of a run, and put the outcome into ``run.outcome``.

    Args:
        run: the task to run.
        serializer: unpacks the arguments and packs the result.
        threads: the limiter of the threads that sync functions run in.
        now: reads the wall clock of the store, in seconds.
    """
    outcome: Outcome | None = None
    try:
        # Most tasks have no deadline, and nothing to ask.
        limit = _limit(run, 0.0 if run.task.deadline is None else await now())
        with (
            _NO_LIMIT if limit == math.inf else CancelScope(deadline=limit) as run.limit,
            run.guard,
        ):
            if run.cause is None:
                outcome = await _call(run, serializer, threads)
        if outcome is None:
            outcome = _interrupted(run)
    except BaseException as error:
        if issubclass(type(error), get_cancelled_exc_class()) and run.host.is_closing():
            run.outcome = _ENDS.get(run.cause, Outcome(OutcomeKind.RELEASED))
            raise
        outcome = _raised(run, error)
    run.outcome = outcome


async def _call(run: Run, serializer: Serializer, threads: CapacityLimiter) -> Outcome:
    function = run.function
    if function is None:
        return Outcome(OutcomeKind.RELEASED, unknown=True)
    task = run.task
    try:
        args, kwargs = unpack_arguments(serializer, task.arguments, f"the arguments of {task.name}")
        function.check(args, kwargs)
    except Exception as error:
        return failed(error, final=True)
    running_task.set(run)
    if function.is_async:
        value = await function.function(*args, **kwargs)
    elif function.options.executor is Executor.PROCESS:
        value, outcome = await _in_process(run, function, args, kwargs)
        if outcome is not None:
            return outcome
    else:
        call = partial(_captured, function.function, args, kwargs)
        value, error = await to_thread.run_sync(call, limiter=threads)
        if isinstance(error, get_cancelled_exc_class()):  # by anyio.from_thread.check_cancelled
            raise error
        if error is not None:
            return _raised(run, error)
    return _returned(value, serializer, f"the result of {task.name}")


async def _in_process(
    run: Run, function: TaskFunction[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, Outcome | None]:
    """What the function returned in its process, or how the run ended."""
    try:
        value, outcome = await run.host.processes.call(function, args, kwargs)
    except ProcessLost as error:
        if run.cause is None and run.host.is_stopping():
            return None, _ENDS[Cause.SHUTDOWN]  # who stops a worker may kill its processes first
        value, outcome = None, failed(error.with_traceback(None))
    if outcome is not None and (run.cause is not None or run.timed_out()):
        outcome = _interrupted(run)
    return value, outcome


def _captured(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, BaseException | None]:
    """Call it in its thread. What it raises is handed over: some of it would end an event loop."""
    try:
        return function(*args, **kwargs), None
    except BaseException as error:
        return None, error


def _returned(value: Any, serializer: Serializer, what: str) -> Outcome:
    if issubclass(type(value), CoroutineType):  # without asking the value itself
        value.close()  # it would warn that nobody awaited it
    try:
        return Outcome(OutcomeKind.SUCCEEDED, value=pack(serializer, value, what))
    except NotSerializable as error:
        return failed(error, final=True)


def _raised(run: Run, error: BaseException) -> Outcome:
    """A cause that was recorded explains whatever was raised after it."""
    if run.cause is not None or run.timed_out():
        return _interrupted(run)
    return failed(error)


def _interrupted(run: Run) -> Outcome:
    if run.cause is not None and run.cause is not Cause.TIMEOUT:
        return _ENDS[run.cause]
    if run.ends_by_deadline:
        return failed(DeadlinePassed("the deadline passed while the task ran"), final=True)
    error = TaskTimedOut(f"the task ran for longer than its timeout of {run.timeout} s")
    return failed(error, kind=OutcomeKind.TIMED_OUT)


def _limit(run: Run, now: float) -> float:
    """When its time is up, by the clock of the event loop."""
    left = math.inf if run.timeout is None else run.timeout
    if run.task.deadline is not None and run.task.deadline - now <= left:
        run.ends_by_deadline = True
        left = run.task.deadline - now
    if left == math.inf:
        return left
    run.ends_at = time.monotonic() + left
    return anyio.current_time() + left


def _policy(task: Reservation, function: TaskFunction[..., Any] | None) -> Retry:
    if task.retry is not None:
        try:
            return Retry.load(task.retry)
        except InvalidOption:  # written by a stranger: the function's own policy holds
            pass
    declared = None if function is None else function.options.retry
    return declared or NO_RETRY

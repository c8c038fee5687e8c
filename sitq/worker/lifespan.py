"""Opens what the tasks of a worker share, and closes it when the last of them has ended."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, TypeAlias, cast

import anyio
import anyio.lowlevel
from anyio import CancelScope, get_cancelled_exc_class
from anyio.abc import TaskGroup

from sitq.backends.loop import Loop
from sitq.errors import InvalidOption, UsageError
from sitq.failure import describe, summary
from sitq.naming import shown
from sitq.worker.run import Cause
from sitq.worker.shift import Stop, log_event
from sitq.worker.signals import end_process

__all__ = ["Lifespan", "LifespanFunction", "check_lifespan"]

LifespanFunction: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]

CLOSE_LIMIT = 10.0
"""Seconds that closing may take; then it is cancelled."""
HURRIED_LIMIT = 2.0
"""Seconds that it has to end in when a second signal has cancelled it."""

_WANTED = (
    "lifespan takes a function without arguments that returns an async context manager, such as "
    "one below @contextlib.asynccontextmanager"
)


def check_lifespan(value: object) -> LifespanFunction | None:
    """A lifespan, as far as can be seen without calling it; or None.

    Raises:
        InvalidOption: it is none.
    """
    if value is None:
        return None
    if hasattr(value, "__aenter__") and not isinstance(value, type):
        raise InvalidOption(f"{_WANTED}; not what that returns: {shown(value)}")
    if (
        not callable(value)
        or inspect.isasyncgenfunction(value)
        or inspect.isgeneratorfunction(value)
        or inspect.iscoroutinefunction(value)
        or not _takes_nothing(value)
    ):
        raise InvalidOption(f"{_WANTED}: {shown(value)}")
    return cast("LifespanFunction", value)


class Lifespan:
    """The resources of a worker, from before its first task to after its last.

    A task of the worker's group holds them, so that scopes and task groups that are opened with
    them are left where they were entered, whatever becomes of the tasks around.

    Args:
        function: opens them; None, if there are none.
        group: the group of the worker.
        stop: that of the worker. It ends a start; a second signal cuts the end short.
        grace: seconds that running tasks get when the resources fail meanwhile.
    """

    def __init__(
        self, function: LifespanFunction | None, group: TaskGroup, stop: Stop, grace: float
    ) -> None:
        self._function = function
        self._group = group
        self._stop = stop
        self._grace = grace
        self._scope = CancelScope(shield=True)
        self._resources: Any = None
        self._error: Exception | None = None
        self._broke = False
        self._opened = anyio.Event()
        self._closing = anyio.Event()
        self._ended = anyio.Event()

    async def __aenter__(self) -> Any:
        """Open them. None, if the worker is to stop before they are open."""
        if self._function is None or self._stop.cause is not None:
            self._ended.set()
            return None
        self._group.start_soon(Loop().protected(self._hold), self._function)
        try:
            with self._stop.interruptible():
                await self._opened.wait()
        finally:
            if not self._opened.is_set():
                self._closing.set()
                self._scope.cancel()
                await self._until_ended()
        if self._error is not None:
            raise self._error
        return self._resources

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close them. What the worker and they have raised comes out together."""
        self._closing.set()
        self._scope.deadline = anyio.current_time() + CLOSE_LIMIT
        await self._until_ended()
        if self._error is None:
            return
        if exc is None:
            raise self._error
        if isinstance(exc, Exception):
            raise ExceptionGroup("the worker broke, and its lifespan", [exc, self._error]) from None

    async def _until_ended(self) -> None:
        while not self._ended.is_set():
            hurried = self._stop.signal is not None
            if hurried:
                self._scope.cancel()
            with self._stop.interruptible() as wait:
                if hurried:
                    wait.deadline = anyio.current_time() + HURRIED_LIMIT
                await self._ended.wait()
            if hurried and self._stop.signal is not None and not self._ended.is_set():
                log_event(logging.ERROR, "ends the process: the lifespan does not end")
                end_process(self._stop.signal)

    async def _hold(self, function: LifespanFunction) -> None:
        try:
            with self._scope:
                async with _manager(function) as self._resources:
                    self._opened.set()
                    await self._until_closing()
            if self._scope.cancelled_caught and self._opened.is_set():
                log_event(logging.ERROR, "lifespan cancelled: it did not close in time")
            elif self._broke:
                raise UsageError("the lifespan was cancelled by a scope of its own")
        except Exception as error:
            self._error = error
            if self._opened.is_set():
                told = summary(describe(error))
                log_event(logging.ERROR, "lifespan failed", error=told)
        finally:
            if not self._closing.is_set():
                self._stop.request(Cause.SHUTDOWN, self._grace)
            self._opened.set()
            self._ended.set()

    async def _until_closing(self) -> None:
        """The tasks of the worker come first, whoever wants this one to end."""
        while not self._closing.is_set():
            try:
                with CancelScope(shield=self._broke):
                    await self._closing.wait()
            except get_cancelled_exc_class():
                self._broke = anyio.current_effective_deadline() == -math.inf
                if self._broke:  # a scope was cancelled that was opened with the resources
                    log_event(logging.ERROR, "lifespan broke: the worker stops", grace=self._grace)
                    self._stop.request(Cause.SHUTDOWN, self._grace)
                else:  # asyncio has cancelled this task, as `asyncio.run` does when it ends
                    self._stop.request(Cause.HOST_CANCELLED, 0.0)
        if self._broke:
            await anyio.lowlevel.checkpoint()  # which is cancelled


def _manager(function: LifespanFunction) -> AbstractAsyncContextManager[Any]:
    made = function()
    if hasattr(made, "__aenter__") and hasattr(made, "__aexit__"):
        return made
    if inspect.iscoroutine(made):
        made.close()
    raise InvalidOption(f"{_WANTED}; it returned {shown(made)}")


def _takes_nothing(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind()
    except TypeError:
        return False
    except ValueError:  # it has no signature that can be read
        pass
    return True

"""The event loop as other threads see it: a place to call plain functions on.

asyncio and trio are imported where one of them runs: ``import sitq`` takes neither along.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar

from anyio import CancelScope
from anyio.lowlevel import current_token

__all__ = ["Loop"]

F = TypeVar("F", bound=Callable[..., Any])


class Loop:
    """The running event loop, as the place to call plain functions on from other threads."""

    def __init__(self) -> None:
        native: Any = current_token().native_token
        self.native = native
        self.is_asyncio: bool = hasattr(native, "call_soon_threadsafe")
        self.scope: Callable[[], CancelScope]
        """Makes a cancel scope, without asking each time which loop this is."""
        if self.is_asyncio:
            import asyncio

            self._call, self._soon = native.call_soon_threadsafe, native.call_soon
            self._running, self._task = asyncio.get_running_loop, asyncio.current_task
            self.scope = type(CancelScope())
        else:
            import trio

            self._call = self._soon = native.run_sync_soon
            self._running, self._task = trio.lowlevel.current_trio_token, _nothing
            scope: Any = trio.CancelScope
            self.scope = scope

    def soon(self, callback: Callable[[], Any]) -> None:
        """Call back after the tasks that are ready now have run. From the loop's own thread."""
        self._soon(callback)

    def call(self, callback: Callable[[], Any]) -> bool:
        """Call back soon, from any thread. False if the loop has ended."""
        try:
            self._call(callback)
        except RuntimeError:  # both loops say so when they have ended
            return False
        return True

    def is_current(self) -> bool:
        """Whether this loop is the one that runs here."""
        try:
            return self._running() is self.native
        except RuntimeError:  # no such loop runs here
            return False

    def ended(self) -> bool:
        """Whether the loop has ended."""
        return not self.call(_nothing)

    def cancelled_natively(self) -> Callable[[], bool]:
        """Tells whether the task that runs here is being cancelled, in spite of any shield.

        asyncio can do that, and does so to every task when `asyncio.run` ends.
        """
        task = self._task()
        return lambda: task is not None and task.cancelling() > 0

    def is_cancelled(self) -> bool:
        """Whether the task that runs here was cancelled by asyncio itself, not by a scope."""
        task = self._task()
        return task is not None and task.cancelling() > 0

    async def swallow_cancellation(self) -> None:
        """Take the cancellation that a function asked for its own task and did not wait for.

        asyncio would deliver it at the end of the task, and so to the task group around it.
        """
        import asyncio

        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)

    def protected(self, function: F) -> F:
        """The function, such that Ctrl-C is not raised in the midst of it.

        trio raises KeyboardInterrupt in whatever task runs at that moment unless it is protected;
        then it is raised in the main task.
        """
        if self.is_asyncio:
            return function
        import trio

        return trio.lowlevel.enable_ki_protection(function)

    def spawn(
        self, function: Callable[[], Coroutine[Any, Any, None]], name: str, context: Context
    ) -> object:
        """Run a coroutine function outside every task group. The caller keeps what is returned."""
        if self.is_asyncio:
            return self.native.create_task(function(), name=name, context=context)
        import trio

        return trio.lowlevel.spawn_system_task(function, name=name, context=context)


def _nothing() -> None:
    """Called to see whether it can be, and where there is no task of asyncio."""

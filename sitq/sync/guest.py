"""A sync task function in its thread, as the event loop of a sync queue knows it.

The function uses a queue whose event loop is not that of its worker. So that a wait there is a wait
of the run, its thread waits in the worker's loop meanwhile: there the slot is given to others, and
there it hears that the run is to end.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from concurrent.futures import Future, wait
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio import NoEventLoopError, from_thread, get_cancelled_exc_class
from anyio.lowlevel import current_token

from sitq.context import Running, running_task
from sitq.errors import UsageError
from sitq.sync.portal import until

__all__ = ["Guest", "guest_here"]


class Guest:
    """A run, seen from another event loop than its worker's: the `Running` of what is done there.

    Args:
        run: the run itself.
    """

    def __init__(self, run: Running) -> None:
        self.only_run_ends: bool = False
        """As it was at the last look: the loop of the worker alone can tell."""
        self._run = run
        self._waits: Future[None] = Future()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    @asynccontextmanager
    async def waiting(self) -> AsyncGenerator[None]:
        """In this block, on the loop of the queue, the run only waits."""
        if not self._waits.done():
            self._waits.set_result(None)
        yield

    def attend(self, future: Future[Any]) -> bool:
        """Wait for the future in the thread of the run. False if the run is to end before."""
        try:
            return from_thread.run(self._attend, future)
        except NoEventLoopError:  # a thread that the function has started itself
            wait([future])
            return True

    def look(self) -> None:
        """Find out whether only the run ends, if it is to end."""
        with suppress(NoEventLoopError):
            from_thread.run(self._look)

    def seconds_left(self) -> float:
        """Until the scopes end that are around the function."""
        try:
            return from_thread.run(_seconds_left)
        except NoEventLoopError:
            return math.inf

    async def _attend(self, future: Future[Any]) -> bool:
        # asyncio does not tell a task that begins in a scope when that is cancelled already.
        if await _seconds_left() > -math.inf:
            with suppress(get_cancelled_exc_class()):  # the thread raises what plain code raises
                await until(self._waits, future)
                if not future.done():
                    async with self._run.waiting():
                        await until(future)
                return True
        return False

    async def _look(self) -> None:
        self.only_run_ends = self._run.only_run_ends


def guest_here() -> Guest | None:
    """The run that is under way in this thread, if there is one.

    Raises:
        UsageError: it is under way in its worker's event loop, which would stand still.
    """
    run = running_task.get()
    if run is None:
        return None
    try:
        current_token()
    except NoEventLoopError:
        return Guest(run)
    raise UsageError(
        "an async task function must not stop its worker's event loop: use TaskQueue there, and "
        "await"
    )


async def _seconds_left() -> float:
    return anyio.current_effective_deadline() - anyio.current_time()

"""Takes what plain code asks of a queue to a portal, which is opened when it is first needed."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextvars import ContextVar
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

from sitq.backends.base import Backend
from sitq.context import Running, running_task
from sitq.errors import NotOpen
from sitq.sync.guest import Guest, guest_here
from sitq.sync.portal import CLOSED, End, Portal, wait_for_end

__all__ = ["Around", "Bridge", "Each", "innermost", "wait_for"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Around(Protocol):
    """A block whose body calls."""

    bridge: Bridge
    outer: Around | None

    async def within(self, function: Callable[[], Awaitable[T]]) -> T:
        """Call a coroutine function that ends when the block is cancelled."""
        ...


innermost: ContextVar[Around | None] = ContextVar("sitq_sync_block", default=None)


def wait_for(future: Future[Any], guest: Guest | None) -> None:
    """Wait until it is done.

    Raises:
        CancelledError: the run that waits is to end.
    """
    if guest is None:
        wait_for_end(future)
    elif not guest.attend(future):
        raise CancelledError("the wait was cancelled: the task that waits is to end")


class _Here:
    """A queue in one process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.portal: Portal | None = None
        self.finalizer: weakref.finalize[..., Any] | None = None
        self.entered = 0
        self.is_closed = False


class Bridge:
    """The way from plain code to a store: from any thread, and in each process another one.

    Args:
        backend: the store.
        loop: the kind of event loop, as `anyio.run` names it.
    """

    def __init__(self, backend: Backend, loop: str) -> None:
        self.backend = backend
        self._loop = loop
        # All are kept: a forked child must not drop what its parent had open.
        self._processes: dict[int, _Here] = {}

    def enter(self) -> None:
        """Open the store; counted, so that each `enter` needs its `leave`."""
        here = self._here()
        with here.lock:
            was_closed, here.is_closed = here.is_closed, False
            here.entered += 1
        try:
            self.call(self.backend.open)
        except BaseException:
            with here.lock:
                here.entered -= 1
                here.is_closed = was_closed and not here.entered
            raise

    def leave(self) -> None:
        """Close the store when every `enter` has its `leave`."""
        here = self._here()
        with here.lock:
            if not here.entered:  # it was closed, or entered before a fork
                return
            here.entered -= 1
            is_last = not here.entered
        if is_last:
            self.close()
        else:
            self.call(self.backend.close)

    def close(self) -> None:
        """Close the store and end the portal. Whoever waits gets `NotOpen`."""
        here = self._here()
        with here.lock:
            portal = here.portal
            if portal is not None:
                portal.check_thread()
            here.portal, here.entered, here.is_closed = None, 0, True
            if here.finalizer is not None:
                here.finalizer.detach()
        if portal is not None:
            portal.close()

    def portal(self) -> Portal:
        """The portal of this process. The first one who asks opens it.

        Raises:
            NotOpen: the queue was closed, or Python ends.
            UsageError: the thread of the portal asks.
        """
        if sys.is_finalizing():  # it has stopped all other threads
            raise NotOpen("the program ends: nothing can use the queue any more")
        here = self._here()
        with here.lock:
            if here.portal is not None:
                here.portal.check_thread()
                if not here.portal.is_closing:
                    return here.portal
            if here.is_closed:
                raise NotOpen(CLOSED)
            here.portal = Portal(self.backend, self._loop)
            # Whoever drops a queue without closing it leaves no thread behind.
            here.finalizer = weakref.finalize(self, here.portal.abandon)
            here.finalizer.atexit = False
            return here.portal

    def call(self, function: Callable[[], Awaitable[T]], around: Around | None = None) -> T:
        """Call a coroutine function in the portal, and wait for what it returns.

        Args:
            function: to be called.
            around: the block that it belongs to; default: the one whose body calls.

        Raises:
            CancelledError: the block, or the run that waits, was cancelled.
            NotOpen: the queue was closed.
            UsageError: nobody can wait here.
        """
        guest = guest_here()
        future = self.start(self.portal(), function, guest, around)
        try:
            wait_for(future, guest)
        except BaseException:  # Ctrl-C too
            future.cancel()
            raise
        if future.cancelled():
            raise NotOpen(CLOSED)
        value, error = future.result()
        del future
        if error is None:
            return cast("T", value)
        try:
            raise error
        finally:
            del error

    def start(
        self,
        portal: Portal,
        function: Callable[[], Awaitable[T]],
        guest: Guest | None,
        around: Around | None = None,
    ) -> Future[End[T]]:
        """Call a coroutine function in the portal, as a part of this run and this block."""
        block = around or self._innermost()
        work = function if block is None else partial(block.within, function)
        run = cast("Running | None", guest)

        async def call() -> T:
            running_task.set(run)
            return await work()

        return portal.start(call)

    def _here(self) -> _Here:
        pid = os.getpid()
        return self._processes.get(pid) or self._processes.setdefault(pid, _Here())

    def _innermost(self) -> Around | None:
        block = innermost.get()
        while block is not None and block.bridge is not self:
            block = block.outer
        return block


_OVER: Any = object()


class Each(Generic[T_co]):
    """Iterates in plain code over what is yielded in the portal.

    Args:
        bridge: leads there.
        source: yields it.
        around: the block that it belongs to.
    """

    def __init__(
        self, bridge: Bridge, source: AsyncIterator[T_co], around: Around | None = None
    ) -> None:
        self._bridge = bridge
        self._source = source
        self._around = around

    def __iter__(self) -> Iterator[T_co]:
        return self

    def __next__(self) -> T_co:
        value = self._bridge.call(lambda: anext(self._source, _OVER), self._around)
        if value is _OVER:
            raise StopIteration
        return value

"""One event loop in a thread of its own, in which plain code has coroutine functions called.

It does what a `BlockingPortal` of anyio does. That one cannot be used where another trio runs, lets
the caller wait for the start of a call as well as for its end, and ends by an error that is no
`Exception`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import anyio
from anyio import CancelScope, create_task_group, get_cancelled_exc_class
from anyio.abc import TaskGroup

from sitq.backends.base import Backend
from sitq.backends.loop import Loop
from sitq.errors import NotOpen, UsageError

__all__ = ["CLOSED", "End", "Portal", "Stoppable", "until", "wait_for_end"]

T = TypeVar("T")

CLOSED = "the queue was closed; use it inside 'with queue'"
LOOK = 0.5
"""Seconds after which a Ctrl-C is heard that came just before its thread went to wait: CPython
takes note of it, and goes to wait all the same."""


def wait_for_end(future: Future[Any]) -> None:
    """Wait in a thread until it is done, whatever has become of it."""
    hears = threading.current_thread() is threading.main_thread()
    while not wait([future], LOOK if hears else None).done:
        pass


async def until(*futures: Future[Any]) -> None:
    """Wait in an event loop until one of these is done, whatever threads they are of."""
    loop, done = Loop(), anyio.Event()
    for future in futures:
        future.add_done_callback(lambda _: loop.call(done.set))
    await done.wait()


class End(NamedTuple, Generic[T]):
    """How a call ended. Some errors would end an event loop that they are raised in."""

    value: T | None
    error: BaseException | None


class Stoppable(Protocol):
    """What goes on in a portal until it is told to end."""

    ended: Future[Any]

    def stop(self) -> None:
        """Tell it to end. From any thread."""
        ...


class Portal:
    """An event loop, and a store that is used in it alone.

    Its thread is a daemon: a program that never closes it can exit.

    Args:
        backend: opens itself when it is used, and is closed at the end.
        loop: the kind of event loop, as `anyio.run` names it.
    """

    def __init__(self, backend: Backend, loop: str) -> None:
        self.blocks: set[Stoppable] = set()
        """Those that are open. For the event loop alone."""
        self._backend = backend
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._loop: Loop | None = None
        self._posted: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()
        self._news = anyio.Event()
        self._ready: Future[None] = Future()
        self._stopped: Future[None] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(loop,), name="sitq-portal", daemon=True
        )
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Whether its thread goes on: not in a child that was forked, nor when Python ends."""
        return self._pid == os.getpid() and not sys.is_finalizing()

    @property
    def is_current(self) -> bool:
        """Whether its own thread asks, which would wait for itself."""
        return threading.current_thread() is self._thread

    @property
    def is_closing(self) -> bool:
        """Whether nothing can begin in it any more."""
        return self._stopped.done()

    def check_thread(self) -> None:
        """Refuse its own thread.

        Raises:
            UsageError: it is the one that calls.
        """
        if self.is_current:
            raise UsageError(
                "a sync queue cannot be used by what its own event loop calls, such as a serializer"
            )

    def start(self, function: Callable[[], Awaitable[T]]) -> Future[End[T]]:
        """Call a coroutine function in a task, which ends if what is returned is cancelled.

        Raises:
            NotOpen: the portal was closed.
        """
        wait_for_end(self._ready)
        self._ready.result()
        future: Future[End[T]] = Future()
        with self._lock:  # or it could come when nobody is there to take it
            if self.is_closing:
                raise NotOpen(CLOSED)
            self._posted.append(partial(self._call, function, future))
        self._tell()
        return future

    def close(self) -> None:
        """End what goes on in it, close the store and end the thread."""
        with self._lock:
            self.abandon()
        if self.is_here:
            wait_for_end(self._ended)
            self._ended.result()

    def abandon(self) -> None:
        """Let all of that happen, without waiting for it."""
        if self.is_here:
            with suppress(InvalidStateError):
                self._stopped.set_result(None)
            self._tell()

    def _tell(self) -> None:
        if self._loop is not None:
            self._loop.call(lambda: self._news.set())

    def _run(self, loop: str) -> None:
        try:
            # Not in the context of who happened to come first.
            Context().run(anyio.run, self._serve, backend=loop)
        except BaseException as error:
            (self._ended if self._ready.done() else self._ready).set_exception(error)
        finally:
            self.abandon()
            with suppress(InvalidStateError):
                self._ended.set_result(None)

    async def _serve(self) -> None:
        self._loop = Loop()
        self._ready.set_result(None)
        end = End[None](None, None)
        async with create_task_group() as calls:
            await self._take(calls)
            end = await _ended(self._close)
            calls.cancel_scope.cancel()
        if end.error is not None:
            raise end.error

    async def _take(self, calls: TaskGroup) -> None:
        """Begin what is posted, until all is to end."""
        is_last = False
        while not is_last:
            self._news, is_last = anyio.Event(), self.is_closing
            while self._posted:
                calls.start_soon(self._posted.popleft())
            if not is_last:
                await self._news.wait()

    async def _call(self, function: Callable[[], Awaitable[T]], future: Future[End[T]]) -> None:
        end: End[T] | None = None
        try:
            with CancelScope() as scope:
                future.add_done_callback(partial(self._cancel, scope))
                end = await _ended(function)
        finally:
            if end is None:
                future.cancel()
            if future.set_running_or_notify_cancel() and end is not None:
                future.set_result(end)

    def _cancel(self, scope: CancelScope, future: Future[Any]) -> None:
        """Its caller no longer waits for it."""
        if future.cancelled() and self._loop is not None:
            self._loop.call(scope.cancel)

    async def _close(self) -> None:
        blocks = [*self.blocks]
        for block in blocks:
            block.stop()
        for block in blocks:  # while there is a store to tell
            await until(block.ended)
        with suppress(NotOpen):  # it could not be opened here
            await self._backend.close()
            await self._backend.close()  # one that opened itself counts once more


async def _ended(function: Callable[[], Awaitable[T]]) -> End[T]:
    try:
        return End(await function(), None)
    except get_cancelled_exc_class():
        raise
    except BaseException as error:
        return End(None, error)

"""The two ends of a ``with`` block of plain code, in one task of a portal.

A scope is left by the task that entered it. So one task enters, waits until the body has ended in
its own thread, and leaves. The body cannot be interrupted: when the block is cancelled, what the
body waits for, and whatever it asks for next, raises `concurrent.futures.CancelledError`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Generic, TypeVar

import anyio
from anyio import CancelScope, get_cancelled_exc_class

from sitq.errors import NotOpen, UsageError
from sitq.sync.bridge import Around, Bridge, innermost, wait_for
from sitq.sync.guest import Guest, guest_here
from sitq.sync.portal import CLOSED, End, Portal, until, wait_for_end

__all__ = ["Block"]

T = TypeVar("T")
U = TypeVar("U")


class Block(Generic[T]):
    """An async context manager, for ``with``.

    Args:
        bridge: leads to the portal.
        manager: is entered and left there.
    """

    def __init__(self, bridge: Bridge, manager: AbstractAsyncContextManager[T]) -> None:
        self.bridge = bridge
        self.outer: Around | None = None
        self.ended: Future[BaseException | None] = Future()
        """With what was raised at the end."""
        self._manager = manager
        self._entered: Future[T] = Future()
        self._left: Future[BaseException | None] = Future()
        """With what the body raised."""
        self._hosted: Future[End[None]] | None = None
        self._portal: Portal | None = None
        self._guest: Guest | None = None
        self._waits: set[CancelScope] = set()
        self._is_cancelled = False

    def enter(self) -> T:
        """Begin the block, and return what the manager has returned."""
        if self._portal is not None:
            raise UsageError("a block is entered once; make another one")
        self._guest = guest_here()
        left = math.inf if self._guest is None else self._guest.seconds_left()
        self._portal = self.bridge.portal()
        host = partial(self._host, self._portal, left)
        self._hosted = self.bridge.start(self._portal, host, self._guest)
        try:
            wait_for(self._entered, self._guest)
        except BaseException:
            self._give_up()
            raise
        value = self._entered.result()
        self.outer = innermost.get()
        innermost.set(self)
        return value

    def leave(self, error: BaseException | None) -> bool:
        """End the block. True if what the body raised is not to be raised any more.

        Args:
            error: what that was.
        """
        innermost.set(self.outer)
        if self._portal is None or not self._portal.is_here:
            return False  # its parent has forked in the body, and goes on there; or all ends
        if self._portal.is_current:  # the body is a generator that was dropped, and collected here
            self._give_up()
            return False
        is_own = self._is_cancelled and isinstance(error, CancelledError)
        is_caught = is_own or error is None or _is_of_the_body(error)
        try:
            if is_caught:
                self._let_go(None if is_own else error)
            else:
                self._give_up()
            wait_for(self.ended, self._guest)
        except BaseException:  # Ctrl-C too
            self._give_up()
            wait_for_end(self.ended)
            raise
        raised = self.ended.result()
        if is_caught and raised is not None:
            raise raised
        if error is not None and isinstance(raised, BaseExceptionGroup):
            raise error from raised
        return is_caught and error is not None

    def stop(self) -> None:
        """Cancel the block, whatever its body does. From any thread."""
        self._let_go(None)
        if self._hosted is not None:
            self._hosted.cancel()

    def call(self, function: Callable[[], Awaitable[U]]) -> U:
        """Call a coroutine function in the portal, as a part of the block."""
        return self.bridge.call(function, self)

    async def within(self, function: Callable[[], Awaitable[U]]) -> U:
        """Call a coroutine function that ends when the block is cancelled.

        Raises:
            CancelledError: it was.
        """
        if self.ended.done():
            return await function()
        with CancelScope() as scope:
            if self._is_cancelled:
                scope.cancel()
            self._waits.add(scope)
            try:
                return await function()
            finally:
                self._waits.discard(scope)
        raise CancelledError("the block was cancelled: leave it")

    def _let_go(self, error: BaseException | None) -> None:
        """The body has ended, with this error."""
        with suppress(InvalidStateError):  # of a portal that is closed meanwhile
            self._left.set_result(error)

    def _give_up(self) -> None:
        """Cancel the block from its body's thread."""
        if self._guest is not None:
            self._guest.look()
        self.stop()

    async def _host(self, portal: Portal, seconds: float) -> None:
        """Enter, wait for the body, and leave."""
        error: BaseException | None = CancelledError("the block was cancelled")
        portal.blocks.add(self)
        try:
            with CancelScope(deadline=anyio.current_time() + seconds) as limit:
                async with self._manager as value:
                    self._entered.set_result(value)
                    await self._body()
            if not limit.cancelled_caught:
                error = None
        except get_cancelled_exc_class():
            if portal.is_closing:
                error = NotOpen(CLOSED)
            raise
        except BaseException as caught:
            error = caught
        finally:
            portal.blocks.discard(self)
            if not self._entered.done():
                self._entered.set_exception(error)
            self.ended.set_result(error)

    async def _body(self) -> None:
        cancellation = None
        try:
            await until(self._left)
        except get_cancelled_exc_class() as caught:
            cancellation = caught
            self._is_cancelled = True
            for scope in self._waits:
                scope.cancel()
            with CancelScope(shield=True):
                await until(self._left)
        error = self._left.result() or cancellation
        if error is not None:
            raise error


def _is_of_the_body(error: BaseException) -> bool:
    """Whether it is one of those that a block gathers; others end a program, or what is around."""
    return isinstance(error, Exception) and not isinstance(error, CancelledError)

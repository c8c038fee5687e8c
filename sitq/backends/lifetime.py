"""Opens and closes a store: at its first use or by who enters it, in one loop at a time."""

from __future__ import annotations

import os
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, Self, TypeVar

import anyio
from anyio import CancelScope, create_task_group

from sitq.backends.loop import Loop
from sitq.errors import NotOpen

__all__ = ["Lifetime", "Opening", "finish"]


async def finish(work: Callable[[], Awaitable[None]]) -> None:
    """Do it to the end, also when the caller is cancelled, by a scope or natively."""

    async def shielded() -> None:
        with CancelScope(shield=True):
            await work()

    # Native cancellation walks out of a shield, but not out of a task group: that waits.
    with CancelScope(shield=True):
        async with create_task_group() as group:
            group.start_soon(shielded)


class Opening(Protocol):
    """Everything that exists while a store is open in one event loop."""

    pid: int
    """The process that opened it."""

    def is_here(self) -> bool:
        """Whether its event loop is the one that runs here."""
        ...

    async def close(self) -> None:
        """Do what was submitted, then end everything."""
        ...

    def abandon(self) -> None:
        """Let everything end, without waiting for that."""
        ...


S = TypeVar("S", bound=Opening)


class Lifetime(Generic[S]):
    """What is open of a store, and for how long.

    Args:
        where: names it in messages.
        create: opens it in a loop.
    """

    def __init__(self, where: str, create: Callable[[Loop], Awaitable[S]]) -> None:
        self._where = where
        self._create = create
        self._opened: S | None = None
        self._users = 0
        self._closed = False
        self._opening: anyio.Lock | None = None
        self._loop: Loop | None = None
        self._finalizer: weakref.finalize[[], Any] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where!r})"

    async def open(self) -> None:
        """Open the store; counted, so that each `open` needs its `close`."""
        self._join_loop()
        self._users += 1
        was_closed, self._closed = self._closed, False
        try:
            await self._ready()
        except BaseException:
            self._users -= 1
            self._closed = was_closed and self._users == 0
            raise

    async def close(self) -> None:
        """Close the store when every `open` has its `close`. Whoever waits gets `NotOpen`.

        A backend that opened itself at its first use counts as opened once more.
        """
        self._join_loop()
        self._users = max(0, self._users - 1)
        if self._users == 0:
            self._closed = True
            opened, self._opened = self._opened, None
            if opened is not None:
                self._forget()
                await opened.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _ready(self) -> S:
        """What is open in this event loop; opened now if need be."""
        opened = self._opened_here()
        if opened is not None:
            return opened
        self._join_loop()
        assert self._opening is not None
        async with self._opening:
            if self._opened is None:
                await self._open_now()
            assert self._opened is not None
            return self._opened

    def _opened_here(self) -> S | None:
        """What is open in this process and this event loop."""
        opened = self._opened
        if opened is not None and opened.pid == os.getpid() and opened.is_here():
            return opened
        return None

    def _check_opened(self) -> None:
        if self._opened_here() is None:
            self._join_loop()
            self._check_not_closed()
            raise NotOpen(
                f"{self!r} is not open: enter it, or the queue, before a transaction of your own "
                "begins"
            )

    async def _open_now(self) -> None:
        self._check_not_closed()
        opens_itself = self._users == 0
        opened = await self._create(self._loop or Loop())
        if self._closed:  # meanwhile
            await opened.close()
            self._check_not_closed()
        self._opened = opened
        self._users += opens_itself  # nobody else's close is to end what opened itself
        # Whoever drops a backend without closing it leaves no threads behind.
        self._finalizer = weakref.finalize(self, opened.abandon)
        self._finalizer.atexit = False

    def _check_not_closed(self) -> None:
        if self._closed:
            raise NotOpen(f"{self!r} was closed; use it inside 'async with backend'")

    def _forget(self) -> None:
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None

    def _join_loop(self) -> None:
        """Make this event loop the backend's; what an ended one left open is dropped."""
        loop = Loop()
        before = self._loop
        if self._opened is not None and self._opened.pid != os.getpid():
            raise NotOpen(
                f"{self!r} was opened before a fork: close it before, or open it in the child alone"
            )
        if before is not None and before.native is loop.native:
            return
        if before is not None and self._opened is not None:
            if not before.ended():
                raise NotOpen(f"{self!r} is open in another event loop; make one for each loop")
            self._opened.abandon()
        self._forget()
        self._loop = loop
        self._opened = None
        self._users = 0
        self._closed = False
        self._opening = anyio.Lock()

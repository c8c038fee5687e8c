"""Runs plain functions on the one thread that owns a connection, and answers on the event loop.

A transaction is one such function, whole: nothing on the event loop can interrupt it halfway.
Under asyncio the thread is aiosqlite's, whose queue takes functions. aiosqlite does not work under
trio, so there a small thread of our own stands behind the same methods.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import anyio

from sitq.backends.commit import ask
from sitq.backends.loop import Loop
from sitq.errors import NotOpen

__all__ = ["CLOSE_LIMIT", "Driver"]

T = TypeVar("T")
Job = Callable[[], Any]

CLOSE_LIMIT = 10.0
"""Seconds for which closing waits for what is under way."""


def _nothing_to_connect() -> Any:
    return object()


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        connection.close()


class Driver:
    """A connection and the thread that owns it."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._connection: sqlite3.Connection | None = None
        self._put: Callable[[Job | None], object] | None = None
        self._renewed: Callable[[sqlite3.Connection], sqlite3.Connection] | None = None

    async def open(
        self,
        connector: Callable[[], sqlite3.Connection],
        renewed: Callable[[sqlite3.Connection], sqlite3.Connection],
    ) -> None:
        """Start the thread and connect on it.

        Args:
            connector: makes the connection.
            renewed: gives the connection that takes the place of one, before each use of it; the
                same one as long as that is sound.
        """
        if self._loop.is_asyncio:
            await self._open_aiosqlite()
        else:
            self._open_thread()
        await self.run(lambda _: self._connect(connector))
        self._renewed = renewed

    def _connect(self, connector: Callable[[], sqlite3.Connection]) -> None:
        # Kept here, on the thread: the opener may be cancelled, and `close` is to find it.
        self._connection = connector()

    def post(
        self,
        work: Callable[[Any], Any],
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        """Run ``work(connection)`` on the thread, then ``done(result, error)`` on the loop."""

        def job() -> None:
            try:
                result, error = work(self._sound()), None
            except BaseException as caught:  # handed to the caller
                result, error = None, caught
            self._loop.call(partial(done, result, error))

        if self._put is None:
            raise NotOpen("the store was closed; use it inside 'async with backend'")
        self._put(job)

    def tell(self, work: Callable[[sqlite3.Connection | None], object]) -> None:
        """Run ``work(connection)`` on the thread; nobody waits for it. From any thread.

        It must not raise.
        """
        put = self._put
        if put is not None:
            put(lambda: work(self._connection))

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back on the loop, after the tasks that are ready now have run."""
        self._loop.soon(callback)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work(connection)`` on the thread and wait for its result.

        A caller that is cancelled leaves; the work is done all the same.
        """
        return await ask(self, work)

    async def close(self) -> None:
        """Do what was posted, close the connection and end the thread."""
        if self._put is None:
            return
        with anyio.move_on_after(CLOSE_LIMIT, shield=True):
            await self.run(_close)
        self._end_thread()

    def abandon(self) -> None:
        """Close the connection and end the thread, without waiting for that."""
        if self._put is not None:
            self._put(lambda: _close(self._connection))
            self._end_thread()

    def _sound(self) -> sqlite3.Connection | None:
        if self._connection is not None and self._renewed is not None:
            self._connection = self._renewed(self._connection)
        return self._connection

    def _end_thread(self) -> None:
        if self._put is not None:
            self._put(None)
            self._put = None

    async def _open_aiosqlite(self) -> None:
        import aiosqlite  # not under trio
        from aiosqlite.core import (
            _STOP_RUNNING_SENTINEL,  # pyright: ignore[reportPrivateUsage]
        )

        # Only aiosqlite's thread and queue are used; what runs there connects and closes.
        opening = aiosqlite.Connection(_nothing_to_connect, iter_chunk_size=64)
        # A program that never closes its backend must still be able to exit.
        opening._thread.daemon = True  # pyright: ignore[reportPrivateUsage]
        opened: Any = await opening
        opened._connection = None  # or it would warn that nobody closed it
        queue = opened._tx

        def stop() -> object:
            return _STOP_RUNNING_SENTINEL

        # aiosqlite's own `stop` would tie the end to an event loop that may be gone.
        self._put = lambda job: queue.put_nowait((None, job or stop))

    def _open_thread(self) -> None:
        jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._put = jobs.put
        Thread(target=_work, args=(jobs,), name="sitq-sqlite", daemon=True).start()


def _work(jobs: SimpleQueue[Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job()

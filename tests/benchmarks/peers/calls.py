"""What is measured of a peer that is open, wherever it keeps its tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import anyio

from tests.benchmarks.pace import WARM

__all__ = ["Calls", "Peer", "beside", "drain", "one_by_one", "round_trips"]


@asynccontextmanager
async def beside(worker: Coroutine[Any, Any, Any]) -> AsyncGenerator[None]:
    """While open, the worker of a peer runs; it is cancelled at the end."""
    running = asyncio.create_task(worker)
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class Calls:
    """Counts calls and tells when enough have run."""

    def __init__(self) -> None:
        self.left = 0
        self.finished = anyio.Event()

    def ran(self) -> None:
        """One more."""
        self.left -= 1
        if not self.left:
            self.finished.set()


class Peer(Protocol):
    """A queue that is open."""

    async def enqueue(self, number: int) -> None:
        """Store one call."""
        ...

    async def enqueue_nothing(self, count: int) -> None:
        """Store so many calls of a function that does nothing."""
        ...

    async def enqueue_many(self, count: int) -> None:
        """Store so many calls at once."""
        ...

    async def round_trip(self) -> None:
        """Store a call of a function that does nothing, and wait for its result."""
        ...

    def work(self, slots: int) -> AbstractAsyncContextManager[None]:
        """Run tasks, so many at a time, until the end of the block."""
        ...


async def one_by_one(peer: Peer, count: int) -> float:
    """Seconds for one call after the other."""
    started = time.perf_counter()
    for number in range(count):
        await peer.enqueue(number)
    return time.perf_counter() - started


async def drain(peer: Peer, calls: Calls, count: int, slots: int) -> float:
    """Seconds from the start of the worker until the last call has run."""
    await peer.enqueue_nothing(count)
    started = time.perf_counter()
    async with peer.work(slots):
        await calls.finished.wait()
        return time.perf_counter() - started


async def round_trips(peer: Peer, count: int) -> list[float]:
    """Seconds from before an enqueue until its result is known, each waited for."""
    return [await _timed(peer.round_trip()) for _ in range(count + WARM)]


async def _timed(done: Awaitable[None]) -> float:
    started = time.perf_counter()
    await done
    return time.perf_counter() - started

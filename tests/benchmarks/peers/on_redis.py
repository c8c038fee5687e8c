"""Measurements of queues that keep their tasks in Redis, which is not durable as it runs here.

Each is reached through a small class, by the way that its documentation calls fast.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from typing import Protocol

import anyio

from tests.benchmarks.pace import WARM, summary
from tests.benchmarks.peers.redis_server import redis_server
from tests.benchmarks.setting import Figures, Setting

__all__ = ["Calls", "RedisPeer", "bulk", "crowd", "drain", "one_by_one", "round_trip_here"]

Measure = Callable[..., Awaitable[float]]


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


class RedisPeer(Protocol):
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


@asynccontextmanager
async def _opened(name: str, url: str, calls: Calls) -> AsyncGenerator[RedisPeer]:
    module = import_module(f"tests.benchmarks.peers.on_{name}")
    async with module.opened(url, calls) as peer:
        yield peer


def one_by_one(setting: Setting, count: int, peer: str) -> Figures:
    """One call after the other."""
    return _measured(setting, _one_by_one, count, peer)


def bulk(setting: Setting, count: int, peer: str) -> Figures:
    """Many calls at once."""
    return _measured(setting, _bulk, count, peer)


def crowd(setting: Setting, count: int, callers: int, peer: str) -> Figures:
    """Many callers, each of whom waits until its call is stored."""
    return _measured(setting, _crowd, count, peer, callers)


def drain(setting: Setting, count: int, slots: int, peer: str) -> Figures:
    """From the start of the worker until the last call has run."""
    return _measured(setting, _drain, count, peer, slots)


def round_trip_here(setting: Setting, count: int, peer: str) -> Figures:
    """From before an enqueue until the result is known, with the worker in the same process."""

    async def run() -> list[float]:
        async with _opened(peer, url, Calls()) as queue, queue.work(10):
            return [await _timed(queue.round_trip()) for _ in range(count + WARM)]

    with redis_server(setting) as url:
        return summary(setting.run(run))


async def _timed(done: Awaitable[None]) -> float:
    started = time.perf_counter()
    await done
    return time.perf_counter() - started


def _measured(setting: Setting, function: Measure, count: int, peer: str, *others: int) -> Figures:
    async def run() -> float:
        calls = Calls()
        calls.left = count
        async with _opened(peer, url, calls) as queue:
            return await function(queue, calls, count, *others)

    with redis_server(setting) as url:
        return {"rate_per_s": count / setting.run(run)}


async def _one_by_one(queue: RedisPeer, _: Calls, count: int) -> float:
    started = time.perf_counter()
    for number in range(count):
        await queue.enqueue(number)
    return time.perf_counter() - started


async def _bulk(queue: RedisPeer, _: Calls, count: int) -> float:
    started = time.perf_counter()
    await queue.enqueue_many(count)
    return time.perf_counter() - started


async def _crowd(queue: RedisPeer, calls: Calls, count: int, callers: int) -> float:
    started = time.perf_counter()
    async with anyio.create_task_group() as group:
        for _ in range(callers):
            group.start_soon(_one_by_one, queue, calls, count // callers)
    return time.perf_counter() - started


async def _drain(queue: RedisPeer, calls: Calls, count: int, slots: int) -> float:
    await queue.enqueue_nothing(count)
    started = time.perf_counter()
    async with queue.work(slots):
        await calls.finished.wait()
        return time.perf_counter() - started

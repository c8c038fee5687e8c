"""Measurements of queues that keep their tasks in Redis, which is not durable as it runs here.

Each is reached through a small class, by the way that its documentation calls fast.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import import_module

import anyio

from tests.benchmarks.pace import summary
from tests.benchmarks.peers.calls import Calls, Peer, round_trips
from tests.benchmarks.peers.calls import drain as drain_of
from tests.benchmarks.peers.calls import one_by_one as one_by_one_of
from tests.benchmarks.peers.redis_server import redis_server
from tests.benchmarks.setting import Figures, Setting

__all__ = ["bulk", "crowd", "drain", "one_by_one", "round_trip_here"]

Measure = Callable[..., Awaitable[float]]


@asynccontextmanager
async def _opened(name: str, url: str, calls: Calls) -> AsyncGenerator[Peer]:
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
    return _measured(setting, drain_of, count, peer, slots)


def round_trip_here(setting: Setting, count: int, peer: str) -> Figures:
    """From before an enqueue until the result is known, with the worker in the same process."""

    async def run() -> list[float]:
        async with _opened(peer, url, Calls()) as queue, queue.work(10):
            return await round_trips(queue, count)

    with redis_server(setting) as url:
        return summary(setting.run(run))


def _measured(setting: Setting, function: Measure, count: int, peer: str, *others: int) -> Figures:
    async def run() -> float:
        calls = Calls()
        calls.left = count
        async with _opened(peer, url, calls) as queue:
            return await function(queue, calls, count, *others)

    with redis_server(setting) as url:
        return {"rate_per_s": count / setting.run(run)}


async def _one_by_one(queue: Peer, _: Calls, count: int) -> float:
    return await one_by_one_of(queue, count)


async def _bulk(queue: Peer, _: Calls, count: int) -> float:
    started = time.perf_counter()
    await queue.enqueue_many(count)
    return time.perf_counter() - started


async def _crowd(queue: Peer, _: Calls, count: int, callers: int) -> float:
    started = time.perf_counter()
    async with anyio.create_task_group() as group:
        for _ in range(callers):
            group.start_soon(one_by_one_of, queue, count // callers)
    return time.perf_counter() - started

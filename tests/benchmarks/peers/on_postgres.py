"""Measurements of queues that keep their tasks in PostgreSQL, with its usual durability.

Each is reached through a small class, by the way that its documentation calls fast.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from typing import Protocol

import anyio
import anyio.to_thread

from tests.benchmarks.child import say, wait_for_word
from tests.benchmarks.pace import WARM, at_a_pace, summary
from tests.benchmarks.peers import calls as counted
from tests.benchmarks.peers.calls import Calls, Peer
from tests.benchmarks.processes import Companion, companion
from tests.benchmarks.setting import Figures, Setting
from tests.benchmarks.waking import idle_cpu

__all__ = [
    "PostgresPeer",
    "bulk",
    "drain",
    "enqueuer",
    "latency_across",
    "one_by_one",
    "round_trip_across",
    "worker",
]

LOOK = 0.01
"""Seconds between two looks at how many have started."""
SLOTS = 10


class PostgresPeer(Peer, Protocol):
    """A queue that is open."""

    started: list[float]
    """Seconds from before each call of `stamp` until it started here."""

    async def install(self) -> None:
        """Make the tables."""
        ...

    async def stamp(self) -> None:
        """Store a call that notes how long it took to start."""
        ...


@asynccontextmanager
async def _opened(name: str, setting: Setting, calls: Calls) -> AsyncGenerator[PostgresPeer]:
    module = import_module(f"tests.benchmarks.peers.on_{name}")
    opened: Callable[..., AbstractAsyncContextManager[PostgresPeer]] = module.opened
    async with opened(setting.database, calls) as peer:
        yield peer


def one_by_one(setting: Setting, count: int, peer: str) -> Figures:
    """One call after the other."""
    return _rate(setting, peer, count, lambda queue, calls: counted.one_by_one(queue, count))


def bulk(setting: Setting, count: int, at_once: int, peer: str) -> Figures:
    """Many calls at once, again and again."""

    async def enqueue(queue: Peer, calls: Calls) -> float:
        started = time.perf_counter()
        for first in range(0, count, at_once):
            await queue.enqueue_many(min(at_once, count - first))
        return time.perf_counter() - started

    return _rate(setting, peer, count, enqueue)


def drain(setting: Setting, count: int, slots: int, peer: str) -> Figures:
    """From the start of the worker until the last call has run."""
    return _rate(
        setting, peer, count, lambda queue, calls: counted.drain(queue, calls, count, slots)
    )


def _rate(
    setting: Setting,
    peer: str,
    count: int,
    function: Callable[[PostgresPeer, Calls], Awaitable[float]],
) -> Figures:
    async def run() -> float:
        calls = Calls()
        calls.left = count
        async with _opened(peer, setting, calls) as queue:
            await queue.install()
            return await function(queue, calls)

    return {"rate_per_s": count / setting.run(run)}


def latency_across(setting: Setting, count: int, pace: float, idle: float, peer: str) -> Figures:
    """From before an enqueue in another process to the start here; and what waiting costs."""
    _install(setting, peer)
    with companion("peers.on_postgres:enqueuer", setting, **_order(count, pace, peer)) as other:
        return setting.run(_started_by, other, setting, count, idle, peer)


def _install(setting: Setting, peer: str) -> None:
    async def install() -> None:
        async with _opened(peer, setting, Calls()) as queue:
            await queue.install()

    setting.run(install)


def _order(count: int, pace: float, peer: str) -> dict[str, object]:
    return {"count": count, "pace": pace, "peer": peer}


async def _started_by(
    other: Companion, setting: Setting, count: int, idle: float, peer: str
) -> Figures:
    async with _opened(peer, setting, Calls()) as queue, queue.work(SLOTS):
        await anyio.to_thread.run_sync(other.is_ready)
        cpu = await idle_cpu(idle)
        other.tell("go")
        while len(queue.started) < count + WARM:
            await anyio.sleep(LOOK)
        return {**summary(queue.started), "idle_cpu_percent": cpu}


def enqueuer(setting: Setting, count: int, pace: float, peer: str) -> Figures:
    """The companion that enqueues, so many a second."""

    async def enqueue() -> None:
        async with _opened(peer, setting, Calls()) as queue:
            say("ready")
            await anyio.to_thread.run_sync(wait_for_word)
            for wait in at_a_pace(count, pace):
                await anyio.sleep(wait)
                await queue.stamp()

    setting.run(enqueue)
    return {}


def round_trip_across(setting: Setting, count: int, peer: str) -> Figures:
    """From before an enqueue until it is known to have ended, run in another process."""

    async def run() -> list[float]:
        async with _opened(peer, setting, Calls()) as queue:
            return await counted.round_trips(queue, count)

    _install(setting, peer)
    with companion("peers.on_postgres:worker", setting, peer=peer) as other:
        other.is_ready()
        return summary(setting.run(run))


def worker(setting: Setting, peer: str) -> Figures:
    """The companion that works until it is told to stop."""

    async def work() -> None:
        async with _opened(peer, setting, Calls()) as queue, queue.work(SLOTS):
            say("ready")
            await anyio.to_thread.run_sync(wait_for_word)

    setting.run(work)
    return {}

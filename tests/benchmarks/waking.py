"""How soon a task starts, and how soon its result is known: within a process and across two."""

from __future__ import annotations

import time

import anyio
import anyio.to_thread

from sitq import TaskQueue, Worker
from tests.benchmarks.child import say, wait_for_word
from tests.benchmarks.pace import WARM, at_a_pace, summary
from tests.benchmarks.processes import Companion, companion
from tests.benchmarks.setting import Figures, Setting
from tests.benchmarks.tasks import LATENCIES, backend_of, registry, stamp

__all__ = [
    "enqueuer",
    "latency_across",
    "latency_here",
    "round_trip_across",
    "round_trip_here",
    "worker",
]

LOOK = 0.01
"""Seconds between two looks at how many tasks have started."""


def enqueuer(setting: Setting, count: int, pace: float) -> Figures:
    """The companion that enqueues, so many a second."""
    return setting.run(_enqueue_when_told, setting, count, pace)


async def _enqueue_when_told(setting: Setting, count: int, pace: float) -> Figures:
    async with TaskQueue(backend_of(setting)) as queue:
        say("ready")
        await anyio.to_thread.run_sync(wait_for_word)
        await _enqueue_at_a_pace(queue, count, pace)
    return {}


async def _enqueue_at_a_pace(queue: TaskQueue, count: int, pace: float) -> None:
    for wait in at_a_pace(count, pace):
        await anyio.sleep(wait)
        await queue.enqueue(stamp, time.monotonic())


def latency_across(setting: Setting, count: int, pace: float, idle: float) -> Figures:
    """From before an enqueue in another process to the start here; and what waiting costs."""
    with companion("waking:enqueuer", setting, count=count, pace=pace) as other:
        return setting.run(_started_by, other, setting, count, idle)


async def _started_by(other: Companion, setting: Setting, count: int, idle: float) -> Figures:
    LATENCIES.clear()
    async with Worker(backend_of(setting), registry=registry):
        await anyio.to_thread.run_sync(other.is_ready)
        cpu = await idle_cpu(idle)
        other.tell("go")
        await _until_started(count)
    return {**summary(LATENCIES), "idle_cpu_percent": cpu}


async def idle_cpu(seconds: float) -> float:
    before = time.process_time()
    await anyio.sleep(seconds)
    return 100 * (time.process_time() - before) / seconds


async def _until_started(count: int) -> None:
    while len(LATENCIES) < count + WARM:
        await anyio.sleep(LOOK)


def latency_here(setting: Setting, count: int, pace: float) -> Figures:
    """From before an enqueue to the start, in one process."""
    return setting.run(_latency_here, setting, count, pace)


async def _latency_here(setting: Setting, count: int, pace: float) -> Figures:
    LATENCIES.clear()
    backend = backend_of(setting)
    async with TaskQueue(backend) as queue, Worker(backend, registry=registry):
        await _enqueue_at_a_pace(queue, count, pace)
        await _until_started(count)
    return summary(LATENCIES)


def worker(setting: Setting) -> Figures:
    """The companion that works until it is told to stop."""
    return setting.run(_work, setting)


async def _work(setting: Setting) -> Figures:
    async with Worker(backend_of(setting), registry=registry):
        say("ready")
        await anyio.to_thread.run_sync(wait_for_word)
    return {}


def round_trip_across(setting: Setting, count: int) -> Figures:
    """From before an enqueue until the result is read, run by a worker in another process."""
    with companion("waking:worker", setting) as other:
        other.is_ready()
        return setting.run(_round_trips, setting, count)


async def _round_trips(setting: Setting, count: int) -> Figures:
    async with TaskQueue(backend_of(setting)) as queue:
        return await _enqueue_and_wait(queue, count)


async def _enqueue_and_wait(queue: TaskQueue, count: int) -> Figures:
    """One call after the other, each waited for."""
    seconds: list[float] = []
    for _ in range(count + WARM):
        started = time.monotonic()
        await (await queue.enqueue(stamp, started)).result()
        seconds.append(time.monotonic() - started)
    return summary(seconds)


def round_trip_here(setting: Setting, count: int) -> Figures:
    """The same with the worker in the same process."""
    return setting.run(_round_trip_here, setting, count)


async def _round_trip_here(setting: Setting, count: int) -> Figures:
    backend = backend_of(setting)
    async with TaskQueue(backend) as queue, Worker(backend, registry=registry):
        return await _enqueue_and_wait(queue, count)

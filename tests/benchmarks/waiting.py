"""What ten thousand callers cost who wait for their results."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from sqlite3 import Connection

import anyio
import anyio.to_thread

from sitq import SQLiteBackend, TaskQueue
from tests.benchmarks.memory import resident
from tests.benchmarks.processes import companion
from tests.benchmarks.setting import Figures, Setting
from tests.benchmarks.tasks import backend_of, nothing

__all__ = ["bare_waiters", "waiters"]

LOOK = 0.01
"""Seconds between two looks at whether all wait."""


def waiters(setting: Setting, count: int) -> Figures:
    """Memory a waiter, and the time on the reader's thread of each look for those that ended.

    The worker is in another process: who waits for one in the same process needs no look.
    """
    return setting.run(_waiters, setting, count)


async def _waiters(setting: Setting, count: int) -> Figures:
    backend = backend_of(setting)
    async with TaskQueue(backend) as queue:
        handles = await queue.enqueue_many([nothing.call() for _ in range(count)])
        looks = _time_looks(backend)
        gc.collect()
        before = resident()
        async with anyio.create_task_group() as group:
            for handle in handles:
                group.start_soon(handle.result)
            await _until(backend, lambda waiting: waiting >= count)
            memory = resident() - before
            with companion("waking:worker", setting) as other:
                await anyio.to_thread.run_sync(other.is_ready)
                started = time.perf_counter()
                await _until(backend, lambda waiting: waiting == 0)
                seconds = time.perf_counter() - started
    return {
        "query_p50_ms": 1000 * statistics.median(used for _, used in looks),
        "query_mean_ms": 1000 * statistics.fmean(used for _, used in looks),
        "look_p50_ms": 1000 * statistics.median(took for took, _ in looks),
        "memory_each_kib": memory / count / 1024,
        "rate_per_s": count / seconds,
    }


async def _until(backend: SQLiteBackend, enough: Callable[[int], bool]) -> None:
    """So many wait, each of whom has looked once by itself."""
    opened = backend._opened
    assert opened is not None
    while not enough(len(opened.waiters._events)):
        await anyio.sleep(LOOK)
    await backend.counts()  # behind the last of their looks on the reader's thread
    await anyio.sleep(LOOK)


def _time_looks(backend: SQLiteBackend) -> list[tuple[float, float]]:
    """Seconds of each look by the clock, with what it waited for the interpreter, and of CPU."""
    opened = backend._opened
    assert opened is not None
    look = opened.waiters._find
    took: list[tuple[float, float]] = []

    def timed(connection: Connection) -> set[bytes] | None:
        started, used = time.perf_counter(), time.thread_time()
        ended = look(connection)
        took.append((time.perf_counter() - started, time.thread_time() - used))
        return ended

    opened.waiters._find = timed  # type: ignore[method-assign]
    return took


def bare_waiters(setting: Setting, count: int) -> Figures:
    """The limit: as many tasks that each wait for an event of their own."""
    return setting.run(_bare_waiters, count)


async def _bare_waiters(count: int) -> Figures:
    gc.collect()
    before = resident()
    events = [anyio.Event() for _ in range(count)]
    async with anyio.create_task_group() as group:
        for event in events:
            group.start_soon(event.wait)
        await anyio.sleep(LOOK)
        memory = resident() - before
        for event in events:
            event.set()
    return {"memory_each_kib": memory / count / 1024}

"""How fast calls are stored: one at a time, many at once, by many callers."""

from __future__ import annotations

import time

import anyio

from sitq import TaskQueue
from tests.benchmarks.setting import URL, Figures, Setting
from tests.benchmarks.tasks import backend_of, fetch

__all__ = ["bulk", "crowd", "one_by_one"]


def one_by_one(setting: Setting, count: int) -> Figures:
    """One caller, each call stored when the next one begins."""
    return setting.run(_one_by_one, setting, count)


def bulk(setting: Setting, count: int, at_once: int | None = None) -> Figures:
    """All calls in one transaction, or so many at once, made and checked on the way."""
    return setting.run(_bulk, setting, count, at_once or count)


def crowd(setting: Setting, count: int, callers: int) -> Figures:
    """Many callers, each of whom waits until its call is stored."""
    return setting.run(_crowd, setting, count, callers)


async def _enqueue(queue: TaskQueue, count: int) -> None:
    for number in range(count):
        await queue.enqueue(fetch, URL, number)


async def _one_by_one(setting: Setting, count: int) -> Figures:
    async with TaskQueue(backend_of(setting)) as queue:
        started = time.perf_counter()
        await _enqueue(queue, count)
        return {"rate_per_s": count / (time.perf_counter() - started)}


async def _bulk(setting: Setting, count: int, at_once: int) -> Figures:
    async with TaskQueue(backend_of(setting)) as queue:
        started = time.perf_counter()
        for first in range(0, count, at_once):
            numbers = range(first, min(first + at_once, count))
            await queue.enqueue_many([fetch.call(URL, number) for number in numbers])
        return {"rate_per_s": count / (time.perf_counter() - started)}


async def _crowd(setting: Setting, count: int, callers: int) -> Figures:
    async with TaskQueue(backend_of(setting)) as queue:
        started = time.perf_counter()
        async with anyio.create_task_group() as group:
            for _ in range(callers):
                group.start_soon(_enqueue, queue, count // callers)
        return {"rate_per_s": count // callers * callers / (time.perf_counter() - started)}

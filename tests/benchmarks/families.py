"""What groups cost: to join one, and to have many parents that wait."""

from __future__ import annotations

import gc
import time

import anyio

from sitq import TaskQueue, Worker
from tests.benchmarks.memory import resident
from tests.benchmarks.setting import Figures, Setting
from tests.benchmarks.tasks import backend_of, nothing, registry

__all__ = ["join", "waiting_parents"]

LOOK = 0.01
"""Seconds between two looks at whether all wait."""
queues: list[TaskQueue] = []
waiting: list[int] = []
"""The parents that have come as far as that."""


@registry.task(queue="parents")
async def parent(number: int) -> None:
    """Waits for a child that is not run yet."""
    async with queues[-1].task_group() as tg:
        await tg.enqueue(nothing)
        waiting.append(number)


def join(setting: Setting, count: int, slots: int) -> Figures:
    """From the start of the worker until a block with so many children has ended."""
    return {"rate_per_s": count / setting.run(_join, setting, count, slots)}


async def _join(setting: Setting, count: int, slots: int) -> float:
    backend = backend_of(setting)
    worker = Worker(backend, max_concurrency=slots, registry=registry)
    async with TaskQueue(backend) as queue, anyio.create_task_group() as local:
        async with queue.task_group() as tg:
            await tg.enqueue_many([nothing.call() for _ in range(count)])
            gc.collect()
            started = time.perf_counter()
            local.start_soon(worker.run)
        took = time.perf_counter() - started
        await worker.stop()
    return took


def waiting_parents(setting: Setting, count: int) -> Figures:
    """Memory of each parent that waits for a child, on a worker with one slot."""
    return setting.run(_waiting_parents, setting, count)


async def _waiting_parents(setting: Setting, count: int) -> Figures:
    backend = backend_of(setting)
    async with TaskQueue(backend) as queue:
        queues.append(queue)
        handles = await queue.enqueue_many([parent.call(number) for number in range(count)])
        gc.collect()
        before = resident()
        async with Worker(backend, max_concurrency=1, queues=["parents"], registry=registry):
            while len(waiting) < count:
                await anyio.sleep(LOOK)
            memory = resident() - before
            async with Worker(backend, queues=["default"], registry=registry):
                for handle in handles:
                    await handle.result()
    return {"memory_each_kib": memory / count / 1024}

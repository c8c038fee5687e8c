"""The block of a group, cancelled at each checkpoint: no child lives on, and nothing is left."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sitq import SQLiteBackend, State, TaskQueue, Worker

from ..worker import functions as f
from .checkpoints import Attempt, most_ways, nothing_leaked

pytestmark = pytest.mark.anyio


async def run_block(queue: TaskQueue) -> list[Any]:
    async with queue.task_group() as tg:
        first = await tg.enqueue(f.echo, 1)
        await tg.enqueue_many([f.echo.call(2), f.echo.using(delay=0.01).call(3)])
        await first.result()
        return [await handle.result() async for handle in tg.as_completed()]


async def run_map(queue: TaskQueue) -> list[Any]:
    async with queue.map(f.echo, range(5), limit=2) as results:
        return [value async for value in results]


@asynccontextmanager
async def a_worker(backend: SQLiteBackend) -> AsyncGenerator[None]:
    async with backend, Worker(backend, registry=f.registry, poll_interval=0.05):
        yield


@most_ways
@pytest.mark.parametrize("place", ["memory", "file"])
@pytest.mark.parametrize("block", [run_block, run_map])
async def test_cancelled_at_every_checkpoint(
    block: Any, kind: str, place: str, tmp_path: Path
) -> None:
    path = ":memory:" if place == "memory" else tmp_path / "tasks.db"
    async with nothing_leaked():
        backend = SQLiteBackend(path, synchronous="NORMAL")
        async with a_worker(backend):
            queue = TaskQueue(backend)
            whole = await block(queue)
            for at in count(1):
                attempt = await Attempt(kind, partial(block, queue), at).run()
                assert attempt.error is None
                await check(backend)
                if not attempt.hit:
                    break
                assert attempt.cancelled or sorted(attempt.answer) == sorted(whole)
            assert at > 5


async def check(backend: SQLiteBackend) -> None:
    """Every child has ended, and nobody holds a group or a lease for one."""
    counts = await backend.counts()
    assert counts[State.PENDING] == counts[State.RUNNING] == 0
    groups = "SELECT count(*) FROM sitq_group"
    assert await backend._read(lambda c: c.execute(groups).fetchone()) == (0,)
    assert [row for row in await backend.workers() if row.queues == ()] == []

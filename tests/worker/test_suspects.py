"""Tasks under which a worker died: one at a time, and without a pause between them."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from sitq import SQLiteBackend, TaskQueue, Worker
from sitq.backends.base import Sweep, Wanted
from sitq.model import Reservation, WorkerRecord
from sitq.testing import Clock

from . import functions as f

pytestmark = pytest.mark.anyio


async def _die_with_all(backend: SQLiteBackend, clock: Clock) -> int:
    """A worker takes everything and dies; another finds that out. Returns how many it had."""
    held: list[Reservation] = []
    dead = await backend.hire(WorkerRecord("here", 1, None, 10, 15.0))
    await backend.reserve(dead, Wanted(10, None), held.extend)
    other = await backend.hire(WorkerRecord("here", 1, None, 10, 15.0))
    taken = 0
    for _ in range(2):
        clock.travel(15.0)
        taken += len((await backend.recover(other, Sweep(3, 60.0))).crashed)
    await backend.dismiss(other)
    assert taken == len(held)
    return taken


@pytest.mark.parametrize("where", ["memory", "file"])
async def test_the_next_suspect_comes_when_the_one_before_has_ended(
    where: str, tmp_path: Path
) -> None:
    clock = Clock()
    path = ":memory:" if where == "memory" else tmp_path / "tasks.db"
    async with SQLiteBackend(path, synchronous="NORMAL", clock=clock) as backend:
        queue = TaskQueue(backend)
        handles = [await queue.enqueue(f.busy) for _ in range(4)]
        assert await _die_with_all(backend, clock) == 4
        f.running.clear()
        with anyio.fail_after(10):
            async with Worker(backend, registry=f.registry, max_concurrency=3, poll_interval=3_600):
                assert [await handle.result() for handle in handles] == [1, 1, 1, 1]

"""Sweeps that had to wait: they take nobody who may have waited too, and the dead in the end."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from sitq import SQLiteBackend
from sitq.backends.base import Sweep
from sitq.model import WorkerRecord
from sitq.testing import Clock

from ..faults.stage import held

pytestmark = pytest.mark.anyio

LEASE = 15.0
RECORD = WorkerRecord("here", 1, None, 10, LEASE)
RULES = Sweep(3, 60.0)


async def late_sweep(backend: SQLiteBackend, clock: Clock, worker: int) -> set[int]:
    """A sweep that waits for a third of a lease. Returns who is left."""
    opened = backend._opened
    assert opened is not None
    async with anyio.create_task_group() as group:
        with held(opened.writer):
            group.start_soon(backend.recover, worker, RULES)
            await anyio.wait_all_tasks_blocked()
            clock.travel(LEASE / 3)
    return {one.id for one in await backend.workers()}


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_who_is_silent_through_many_late_sweeps_is_dead(tmp_path: Path, clock: Clock) -> None:
    async with SQLiteBackend(tmp_path / "tasks.db", clock=clock) as backend:
        dead, alive = await backend.hire(RECORD), await backend.hire(RECORD)
        sweeps = 1
        while await late_sweep(backend, clock, alive) == {dead, alive}:
            sweeps += 1
            assert sweeps < 20, "a dead worker is never found while the store is slow"
        assert {one.id for one in await backend.workers()} == {alive}
        assert sweeps > 5


async def test_who_beats_between_late_sweeps_is_alive(tmp_path: Path, clock: Clock) -> None:
    async with SQLiteBackend(tmp_path / "tasks.db", clock=clock) as backend:
        rare, alive = await backend.hire(RECORD), await backend.hire(RECORD)
        for sweep in range(40):
            assert await late_sweep(backend, clock, alive) == {rare, alive}
            if sweep % 5 == 4:
                heart = backend.heart(rare)
                assert heart is not None
                assert heart.beat(0.0)
                heart.close()

"""The store stands still, at every step of what the workers do: nobody is taken for dead."""

from __future__ import annotations

import random

import anyio
import pytest
import trio

from .simulated.functions import everybody, known, worlds
from .simulated.journal import read
from .simulated.loop import LoopDriver, Pace, from_seed, run
from .simulated.people import new_worker
from .simulated.world import LEASE, World


class StallsOnce(Pace):
    """Quick, but for one pause before a certain piece of work."""

    def __init__(self, at: int, seconds: float) -> None:
        super().__init__(random.Random(0))
        self.slowest = 0.0
        self._left = at
        self._seconds = seconds

    async def pause(self) -> None:
        if self._left == 0:
            await trio.sleep(self._seconds)
        self._left -= 1


async def _work(world: World) -> None:
    """Three workers that beat in turn, and tasks that run all the time."""
    sleep = everybody.get("sleep")
    assert sleep is not None
    async with world.backend, anyio.create_task_group() as group:
        for number in range(3):
            line = world.new_line(f"worker {number}")
            group.start_soon(new_worker(world, line, known, slots=1).run)
            await trio.sleep(LEASE / 9)
        await world.enqueue(*[sleep.call(5 * LEASE) for _ in range(3)])
        await trio.sleep(6 * LEASE)
        world.journal = await world.backend._read(read)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("leases", [0.9, 2.0])
def test_nobody_is_dead_after_a_stall(leases: float) -> None:
    for at in range(40):
        with from_seed(at) as rng:
            world = World(rng)
            LoopDriver.pace = StallsOnce(at, leases * LEASE)
            worlds.append(world)
            run(lambda world=world: _work(world))
            worlds.pop()
        ended = [str(entry) for entry in world.journal if entry.worker is not None]
        assert ended == [], f"it stood still before step {at}"

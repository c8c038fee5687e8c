"""Random lives of a whole queue with several workers, each decided by one seed.

    python tests/faults/simulation.py --seconds 60 --seed 1

plays as many as it can, on all cores, and says how many a minute; ``--only SEED`` plays one and
prints its trace. The store runs on the event loop and time is virtual, so that a seed decides
everything. A life in which a promise was broken is printed, and it exits with 1; its seed plays it
again.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection

import anyio
import trio

if __package__ in (None, ""):  # run as a program: the tests are not on the path
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from sitq import State
from sitq.backends.base import Filter
from sitq.lifecycle import TERMINAL
from sitq.model import TaskRow
from tests.faults.simulated.functions import everybody, known, worlds
from tests.faults.simulated.journal import parents, read
from tests.faults.simulated.line import Line
from tests.faults.simulated.loop import from_seed, run
from tests.faults.simulated.people import call, employ, new_worker, storm
from tests.faults.simulated.verdict import judge
from tests.faults.simulated.world import LEASE, World

LONGEST = 5_000.0
"""Virtual seconds after which a life is taken to hang."""
APART = 1_000_000
"""Between the first seeds of two processes."""
SLOTS = 2
"""Of each elder: a worker that lives through everything, and must be as good as new in the end."""


@dataclass
class Life:
    """One life: its trace, and the promises that were broken in it."""

    seed: int
    trace: list[str]
    broken: list[str]

    def digest(self) -> str:
        """Names the trace."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


def play(seed: int) -> Life:
    """Play the life that this seed decides."""
    with from_seed(seed) as rng:
        world = World(rng)
        worlds.append(world)
        logging.disable(logging.CRITICAL)
        try:
            run(lambda: _live(world))
        except (Exception, BaseExceptionGroup) as error:
            world.broken += traceback.format_exception(error)
        finally:
            logging.disable(logging.NOTSET)
            worlds.pop()
    return Life(seed, world.trace, world.broken)


async def _live(world: World) -> None:
    with anyio.fail_after(LONGEST):
        async with world.backend, AsyncExitStack() as stack:
            for number in range(world.rng.randint(1, 2)):
                line = world.new_line(f"elder {number}")
                await stack.enter_async_context(new_worker(world, line, known, SLOTS))
            elders = tuple(world.lines[1:])
            await _spend_the_day(world)
            await _drain(world, elders)
            await _use_every_slot(world, len(elders) * SLOTS)
            await stack.aclose()
            await _close_the_books(world)


async def _spend_the_day(world: World) -> None:
    rng = world.rng
    async with anyio.create_task_group() as group:
        for place in range(rng.randint(0, 2)):
            group.start_soon(employ, world, place)
        async with anyio.create_task_group() as day:
            for _ in range(rng.randint(1, 3)):
                day.start_soon(call, world)
            day.start_soon(storm, world)
        world.note("evening")
        world.evening.set()


async def _drain(world: World, elders: Sequence[Line]) -> None:
    """Everything comes to its end, though nobody but the elders does anything any more."""
    for row in await _rows(world):
        if row.name == "go_on":
            await world.backend.cancel(row.id)
    for handle in tuple(world.handles):
        await world.backend.ended(handle.id.bytes)
    while live := [row for row in await _rows(world) if row.state not in TERMINAL]:
        for row in live:
            await world.backend.ended(row.id)
    world.note("drained")
    while {row.id for row in await world.backend.workers()} != {line.heard[-1] for line in elders}:
        await trio.sleep(LEASE / 3)  # the dead lose their leases, elders get theirs again


async def _use_every_slot(world: World, slots: int) -> None:
    meet = everybody.get("meet")
    assert meet is not None
    handles = await world.enqueue(*[meet.call(slots) for _ in range(slots)])
    for handle in handles:
        await handle.result(timeout=10 * LEASE)


async def _rows(world: World) -> list[TaskRow]:
    return await world.backend.find(Filter(), after=0, limit=10_000)


async def _close_the_books(world: World) -> None:
    rows = await _rows(world)
    counts = {state: sum(row.state is state for row in rows) for state in State}
    world.demand(await world.backend.counts() == counts, "wrong numbers of tasks")
    world.demand(await world.backend.workers() == [], "a worker is left")
    world.journal = await world.backend._read(read)
    world.parents = await world.backend._read(parents)
    world.demand(await world.backend._read(_is_sound), "the store is not sound")
    world.trace += map(str, world.journal)
    world.broken = judge(world, rows)


def _is_sound(connection: Connection) -> bool:
    check = connection.execute("PRAGMA integrity_check").fetchall()
    orphans = "SELECT count(*) FROM sitq_big WHERE seq NOT IN (SELECT seq FROM sitq_task)"
    no_orphans = connection.execute(orphans).fetchone() == (0,)
    return check == [("ok",)] and no_orphans and not connection.in_transaction


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    if options.only is not None:
        return _show(play(options.only))
    seeds = [options.seed + number * APART for number in range(options.processes)]
    with ProcessPoolExecutor(options.processes) as pool:
        played = list(pool.map(_play_for, seeds, [options.seconds] * len(seeds)))
    lives = sum(one.lives for one in played)
    rate = 60 * lives / options.seconds
    broken = [one.broken for one in played if one.broken is not None]
    print(
        f"{lives} lives, {sum(one.steps for one in played)} steps, {rate:,.0f} lives/min, ", end=""
    )
    print(f"{len(broken)} with broken promises")
    return max((_show(life) for life in broken), default=0)


@dataclass
class Played:
    """What one process played."""

    lives: int = 0
    steps: int = 0
    broken: Life | None = None


def _play_for(seed: int, seconds: float) -> Played:
    """Play from this seed on, until a promise is broken."""
    played = Played()
    end = time.monotonic() + seconds
    while time.monotonic() < end and played.broken is None:
        life = play(seed + played.lives)
        played.lives += 1
        played.steps += len(life.trace)
        if life.broken:
            played.broken = life
    return played


def _show(life: Life) -> int:
    print(*life.trace, *life.broken, f"seed {life.seed} trace {life.digest()}", sep="\n")
    return 1 if life.broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""Many who want the same rows in different orders: nobody gets an error, and nothing is lost."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import anyio
import psycopg
import pytest

from sitq import State
from sitq.backends.base import Filter, Sweep, Wanted
from sitq.backends.postgres import PostgresBackend
from sitq.lifecycle import settle
from sitq.model import Change, NewChild, NewGroup, Outcome, OutcomeKind, Reservation
from sitq.retry import NO_RETRY

from ...postgres import backend_at, server_url
from ..stage import RECORD
from .stage import new_task

pytestmark = pytest.mark.anyio

MACHINES = 4
SECONDS = 2.0
KINDS = (OutcomeKind.SUCCEEDED, OutcomeKind.FAILED, OutcomeKind.RELEASED)
FIND = Filter(state=State.PENDING)
Act = Callable[[PostgresBackend, random.Random], Coroutine[Any, Any, Any]]


@pytest.fixture
async def machines(schema: str) -> AsyncIterator[list[PostgresBackend]]:
    """Backends that know nothing of each other."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(backend_at(schema)) for _ in range(MACHINES)]


async def all_at_once(
    machines: list[PostgresBackend], *acts: Act, callers: int = 4, seconds: float = SECONDS
) -> int:
    """Have every machine do all of it again and again. Returns how often something was done."""
    done = 0

    async def again(machine: PostgresBackend, act: Act, seed: int) -> None:
        nonlocal done
        rng = random.Random(seed)
        while anyio.current_time() < end:
            await act(machine, rng)
            done += 1

    end = anyio.current_time() + seconds
    with anyio.fail_after(seconds + 20):
        async with anyio.create_task_group() as group:
            for number, machine in enumerate(machines):
                for act in acts:
                    for caller in range(callers):
                        group.start_soon(again, machine, act, number * 100 + caller)
    return done


def deadlocks() -> int:
    """How many the server has met."""
    with psycopg.connect(server_url(), autocommit=True) as connection:
        connection.execute("SELECT pg_stat_clear_snapshot()")
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        [number] = connection.execute(query).fetchone() or [0]
        return number


async def test_the_same_keys_in_any_order(machines: list[PostgresBackend]) -> None:
    keys = [f"key {number}" for number in range(40)]
    before = deadlocks()

    async def enqueue_many(machine: PostgresBackend, rng: random.Random) -> None:
        now = await machine.now()
        tasks = [new_task(now, key) for key in rng.sample(keys, 10)]
        assert len(await machine.insert(tasks)) == 10

    async def enqueue_one(machine: PostgresBackend, rng: random.Random) -> None:
        await machine.insert([new_task(await machine.now(), rng.choice(keys))])

    async def finish(machine: PostgresBackend, rng: random.Random) -> None:
        for task in await machine.find(FIND, after=rng.randrange(40), limit=10):
            await machine.cancel(task.id)

    done = await all_at_once(machines, enqueue_many, enqueue_one, finish)
    assert deadlocks() == before
    assert done > 100
    live = await machines[0].find(FIND, after=0, limit=1_000)
    assert len({task.key for task in live}) == len(live)


async def test_everything_about_the_same_groups(machines: list[PostgresBackend]) -> None:
    first = machines[0]
    parents: list[Reservation] = []
    worker = await first.hire(RECORD)
    await first.insert([new_task(await first.now(), queue="parent") for _ in range(3)])
    await first.reserve(worker, Wanted(3, ("parent",)), parents.extend)
    groups = [
        await first.open_group(NewGroup(parent.seq, parent.fence, ordinal=0)) for parent in parents
    ]
    workers = {id(machine): await machine.hire(RECORD) for machine in machines}
    enqueued: set[bytes] = set()

    async def enqueue(machine: PostgresBackend, rng: random.Random) -> None:
        now = await machine.now()
        children = [
            NewChild(new_task(now), str(rng.random()), b"digest")
            for _ in range(rng.randrange(1, 5))
        ]
        enqueued.update(await machine.insert_children(rng.choice(groups), children))

    async def work(machine: PostgresBackend, rng: random.Random) -> None:
        got: list[Reservation] = []
        mine = workers[id(machine)]
        await machine.reserve(mine, Wanted(rng.randrange(1, 8), ("new",)), got.extend)
        rng.shuffle(got)
        now = await machine.now()
        changes = [_end(task, rng.choice(KINDS), now, rng) for task in got]
        settled = await machine.settle(mine, changes)
        asked = await machine.cancelled(mine)
        left = [task for task in got if task.seq in asked - settled]
        await machine.settle(mine, [_end(task, KINDS[2], now, rng, asked=True) for task in left])

    async def cancel(machine: PostgresBackend, rng: random.Random) -> None:
        if enqueued:
            await machine.cancel(rng.choice(tuple(enqueued)))

    async def cancel_group(machine: PostgresBackend, rng: random.Random) -> None:
        await anyio.sleep(0.2 * rng.random())
        await machine.cancel_group(rng.choice(groups), at_once=rng.random() < 0.3)

    async def sweep(machine: PostgresBackend, rng: random.Random) -> None:
        await machine.recover(workers[id(machine)], Sweep(3, 300.0))

    done = await all_at_once(machines, enqueue, work, cancel, cancel_group, sweep, callers=2)
    assert done > 100
    rng, now = random.Random(1), await first.now()
    rest = [_end(parent, KINDS[0], now, rng) for parent in parents]
    assert len(await first.settle(worker, rest)) == 3
    counts = await first.counts()
    assert (counts[State.PENDING], counts[State.RUNNING]) == (0, 0)
    assert sum(counts.values()) == len(enqueued) + 3


def _end(
    task: Reservation, kind: OutcomeKind, now: float, rng: random.Random, *, asked: bool = False
) -> Change:
    outcome = Outcome(kind, b"value", b"error")
    change = settle(task, NO_RETRY, outcome, now, rng, cancel_requested=asked)
    assert change is not None
    return change

"""Random lives of a whole queue with several workers, each decided by one seed.

``python -m tests.faults.simulation --seconds 60 --seed 1`` plays as many as it can, and prints how
many; ``--only SEED`` plays one and prints its trace.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import random
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import anyio
import trio.testing

from sitq import (
    Registry,
    Retry,
    SQLiteBackend,
    State,
    Task,
    TaskHandle,
    TaskQueue,
    Worker,
    current_task,
)
from sitq.errors import KeyTaken, SitqError, StoreUnavailable, TaskNotFound, WrongState
from sitq.lifecycle import TERMINAL

from .simulated import EPOCH, Journal, Line, LoopClock, LoopDriver, from_seed, run

LEASE = 6.0
CRASH_LIMIT = 4
ATTEMPTS = 3
APART = 1_000_000
"""Between the first seeds of two processes."""
SHORTEST, LONGEST = 3, 15
"""Actions from outside in one life."""

everybody = Registry()
known = Registry()
policy = Retry(attempts=ATTEMPTS, base=0.5, cap=4.0)
worlds: list[World] = []


@dataclass
class Kept:
    """An enqueued task, and what may become of it."""

    handle: TaskHandle[Any]
    kind: str


@dataclass
class World:
    """One life: its store, who works in it, and what is expected of it."""

    rng: random.Random
    clock: LoopClock = field(default_factory=LoopClock)
    kept: dict[int, Kept] = field(default_factory=dict[int, Kept])
    enqueued: int = 0
    revived: Counter[UUID] = field(default_factory=Counter[UUID])
    workers: dict[Line, tuple[Worker, anyio.CancelScope]] = field(
        default_factory=dict[Line, tuple[Worker, anyio.CancelScope]]
    )
    hired: int = 0

    def __post_init__(self) -> None:
        self.journal = Journal(self.clock)
        self.backend = SQLiteBackend(":memory:", clock=self.clock)
        self.queue = TaskQueue(self.backend)


def _begins(number: int) -> World:
    world = worlds[-1]
    task = current_task()
    world.journal.note("run", number, task.name, task.attempt)
    world.journal.demand(task.attempt <= ATTEMPTS, "an attempt too many")
    return world


async def succeed(number: int) -> int:
    _begins(number)
    return number


async def sleep(number: int) -> int:
    await anyio.sleep(_begins(number).rng.uniform(0.0, 2 * LEASE))
    return number


async def fail(number: int) -> int:
    _begins(number)
    raise ValueError(number)


async def recover(number: int) -> int:
    _begins(number)
    if current_task().attempt < ATTEMPTS:
        raise ValueError(number)
    return number


async def exit_all(number: int) -> int:
    _begins(number)
    raise SystemExit(number)


async def linger(number: int) -> int:
    """Swallows its cancellation for a while, and ends as if nothing had been."""
    world = _begins(number)
    try:
        await anyio.sleep(LEASE)
    except trio.Cancelled:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(world.rng.uniform(0.0, 3.0))
    return number


async def enqueue_another(number: int) -> int:
    await _enqueue(_begins(number), "succeed")
    return number


async def strange(number: int) -> int:
    raise AssertionError("no worker knows this one")


KINDS = {f.__name__: f for f in (succeed, sleep, fail, recover, exit_all, linger, enqueue_another)}
for _name, _function in KINDS.items():
    known.task(name=_name, retry=policy)(_function)
known.task(name="limited", retry=policy, timeout=1.5)(sleep)
for _name in (*KINDS, "limited"):
    everybody.task(name=_name, retry=policy)(KINDS.get(_name, sleep))
everybody.task(name="strange")(strange)


async def _enqueue(world: World, kind: str | None = None) -> None:
    rng = world.rng
    kind = kind or rng.choice(list(everybody))
    function = everybody.get(kind)
    assert function is not None
    now = EPOCH + world.clock.jumped + trio.current_time()
    with_options = function.using(
        priority=rng.randint(-2, 2),
        delay=rng.choice([None, None, rng.uniform(0.0, 5.0)]),
        key=rng.choice([None, None, None, rng.choice("abc")]),
        deadline=rng.choice([None, None, None, _moment(now + rng.uniform(0.1, 30.0))]),
    )
    number = world.enqueued
    world.enqueued += 1
    handle = await world.queue.enqueue(with_options, number)
    world.journal.note("enqueued", handle.id.int, kind)
    world.kept[number] = Kept(handle, kind)


def _moment(seconds: float) -> datetime:
    return datetime.fromisoformat("1970-01-01T00:00:00+00:00") + timedelta(seconds=seconds)


async def _hire(world: World, group: anyio.abc.TaskGroup) -> None:
    if len(world.workers) >= 4:
        return
    world.hired += 1
    line = Line(world.backend, world.journal, f"w{world.hired}")
    worker = Worker(
        line,  # type: ignore[arg-type]
        registry=known,
        max_concurrency=world.rng.randint(1, 4),
        poll_interval=3.0,
        grace=2.0,
        lease=LEASE,
        crash_limit=CRASH_LIMIT,
        unknown_after=20.0,
    )

    async def host(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.CancelScope() as scope:
            world.workers[line] = worker, scope
            task_status.started()
            try:
                await worker.run()
            except StoreUnavailable:
                assert line.was_cut
        world.workers.pop(line, None)

    await group.start(host)


async def _act(world: World, group: anyio.abc.TaskGroup) -> None:
    rng = world.rng
    what = rng.choices(
        ["enqueue", "wait", "hire", "stop", "host", "crash", "part", "stall", "cancel", "retry"],
        [14, 8, 4, 1, 1, 2, 2, 2, 3, 2],
    )[0]
    world.journal.note(what)
    if what == "enqueue":
        for _ in range(rng.randint(1, 4)):
            await _enqueue(world)
    elif what == "wait":
        await anyio.sleep(rng.uniform(0.0, 5.0))
    elif what == "hire":
        await _hire(world, group)
    elif what == "stall":
        LoopDriver.stalled_until = trio.current_time() + rng.uniform(0.1, 2 * LEASE)
    elif what in ("cancel", "retry"):
        await _change(world, what)
    elif world.workers:
        line = rng.choice(list(world.workers))
        worker, scope = world.workers[line]
        if what == "stop":
            group.start_soon(_stop, line, worker)
        elif what == "host":
            scope.cancel()
        else:
            line.cut()
            if what == "crash":
                scope.cancel()
            else:
                group.start_soon(_join_again, world, line)


async def _stop(line: Line, worker: Worker) -> None:
    try:
        await worker.stop()
    except StoreUnavailable:
        assert line.was_cut  # before it was hired


async def _join_again(world: World, line: Line) -> None:
    await anyio.sleep(world.rng.uniform(0.0, 2 * LEASE))
    world.journal.note(line, "is back")
    line.is_cut = False


async def _change(world: World, what: str) -> None:
    if not world.kept:
        return
    one = world.rng.choice(list(world.kept.values()))
    if what == "cancel":
        await one.handle.cancel()
        return
    try:
        await world.queue.retry(one.handle)
    except (WrongState, KeyTaken, TaskNotFound):
        return
    world.revived[one.handle.id] += 1


async def _live(world: World, actions: int) -> None:
    async with world.backend:
        async with anyio.create_task_group() as group:
            for _ in range(world.rng.randint(1, 3)):
                await _hire(world, group)
            for _ in range(actions):
                await _act(world, group)
            for line in tuple(world.workers):
                group.start_soon(_stop, line, world.workers[line][0])
        await _drain(world)
        await _check(world)


async def _drain(world: World) -> None:
    """One worker that nothing happens to brings everything to its end."""
    line = Line(world.backend, world.journal, "last")
    with anyio.fail_after(3_600):
        async with Worker(
            line,  # type: ignore[arg-type]
            registry=known,
            lease=LEASE,
            crash_limit=CRASH_LIMIT,
            unknown_after=20.0,
        ):
            while (
                not all(task.state in TERMINAL for task in await _tasks(world))
                or len(await world.queue.workers()) > 1
            ):
                await anyio.sleep(3.0)


async def _tasks(world: World) -> list[Task]:
    return await world.queue.find(limit=10_000)


async def _check(world: World) -> None:
    assert world.journal.broken == []
    tasks = {task.id: task for task in await _tasks(world)}
    acknowledged = {one.handle.id for one in world.kept.values()}
    assert acknowledged <= set(tasks), "an acknowledged task was lost"
    unanswered = world.enqueued - len(world.kept)
    assert len(set(tasks) - acknowledged) <= unanswered, "a task came from nowhere"
    assert await world.queue.workers() == []
    for one in world.kept.values():
        task = tasks[one.handle.id]
        assert task.state in TERMINAL
        assert task.attempts <= ATTEMPTS
        assert task.crashes <= CRASH_LIMIT
        assert world.journal.ends.get(task.seq, 0) <= 1 + world.revived[task.id], "settled twice"
        result = await world.queue.get_result(one.handle)
        assert result is not None
        assert result.state is task.state
        if result.state is State.SUCCEEDED:
            owner = world.kept[result.value]  # another one if that held the key
            assert owner.handle == one.handle
            assert owner.kind not in ("fail", "exit_all", "strange")
        if result.state is State.FAILED:
            assert result.error is not None
    assert await world.backend.counts() == {
        state: sum(task.state is state for task in tasks.values()) for state in State
    }


def play(seed: int, actions: int | None = None) -> list[str]:
    """One life. Returns its trace.

    Args:
        seed: decides everything.
        actions: how many there are; None lets the seed decide that too.

    Raises:
        AssertionError: a promise was broken; its note has the seed and the end of the trace.
    """
    if actions is None:
        actions = SHORTEST + seed % (LONGEST - SHORTEST + 1)
    logging.disable(logging.CRITICAL)
    with from_seed(seed) as rng:
        world = World(rng)
        worlds.append(world)
        try:
            run(lambda: _live(world, actions))
        except (Exception, BaseExceptionGroup) as error:
            error.add_note(f"--only {seed}\n" + "\n".join(world.journal.lines[-60:]))
            raise
        finally:
            worlds.pop()
            logging.disable(logging.NOTSET)
    return world.journal.lines


def digest(lines: list[str]) -> str:
    """Names a trace."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    if options.only is not None:
        lines = play(options.only)
        print(*lines, digest(lines), sep="\n")
        return
    seeds = [options.seed + number * APART for number in range(options.processes)]
    with ProcessPoolExecutor(options.processes) as pool:
        lives = list(pool.map(_play_for, seeds, [options.seconds] * len(seeds)))
    played, steps = (sum(figures) for figures in zip(*lives, strict=True))
    rate = 60 * played / options.seconds
    print(f"{played} lives, {steps} steps, {rate:,.0f} lives/min, 0 broken promises")


def _play_for(seed: int, seconds: float) -> tuple[int, int]:
    """Plays from this seed on. Returns how many lives and steps there were."""
    end = time.monotonic() + seconds
    played = steps = 0
    while time.monotonic() < end:
        steps += len(play(seed + played))
        played += 1
    return played, steps


if __name__ == "__main__":
    try:
        main()
    except SitqError as error:
        sys.exit(str(error))

"""What the children of the zygote can be. Each is a program on an event loop of its own."""

from __future__ import annotations

import logging
import math
import os
import random
import resource
from collections.abc import Callable, Coroutine
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio._backends._asyncio
import anyio._backends._trio
import anyio.to_thread

from sitq import SQLiteBackend, State, TaskQueue, Worker
from sitq.backends.base import Wanted
from sitq.model import Reservation, WorkerRecord

from . import failpoints
from . import functions as f
from .enqueuer import Enqueuer
from .journal import Journal, allowed, connect
from .zygote import say, wait_at

POLL = 0.5
CRASH_LIMIT = 3
BUSY_LIMIT = 100.0
"""Seconds: on a machine that has much else to do, whoever holds the lock may not get his turn."""

Role = Callable[..., Coroutine[Any, Any, None]]
ROLES: dict[str, Callable[..., None]] = {}


@dataclass(frozen=True, slots=True)
class Part:
    """What every process is told."""

    path: str
    """Of the database."""
    folder: str
    """For journals and logs."""
    slot: str
    """Names these."""
    loop: str
    seed: int
    point: str | None = None
    """The failpoint at which it dies."""
    countdown: int = 1
    barrier: str | None = None
    """Where it waits then instead of dying."""

    def journal(self, kind: str) -> Journal:
        """The journal of this process, and of those that were in its place before."""
        return Journal(self.file(kind))

    def file(self, kind: str) -> Path:
        """Where that journal is."""
        return Path(self.folder, f"{self.slot}.{kind}.jsonl")


def _role(main: Role) -> Role:
    def play(part: dict[str, Any], **options: Any) -> None:
        made = Part(**part)
        random.seed(made.seed)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # one of the functions aborts
        log = Path(made.folder, f"{made.slot}.log")
        logging.basicConfig(filename=log, format="%(message)s", level=logging.WARNING)
        if made.point is not None:
            failpoints.arm(made.point, made.countdown, made.barrier)
        with allowed():
            anyio.run(partial(main, made, **options), backend=made.loop)

    ROLES[main.__name__] = play
    return main


def _backend(part: Part) -> SQLiteBackend:
    return SQLiteBackend(part.path, busy_limit=BUSY_LIMIT)


def _worker(part: Part, backend: SQLiteBackend, slots: int, lease: float) -> Worker:
    f.runs.append(part.journal("runs"))
    return Worker(
        backend,
        registry=f.registry,
        max_concurrency=slots,
        lease=lease,
        poll_interval=POLL,
        crash_limit=CRASH_LIMIT,
        grace=0.0,
    )


@_role
async def worker(part: Part, *, slots: int, lease: float, stop_after: float = math.inf) -> None:
    """Work until killed, or stop in good order after a time."""
    async with _worker(part, _backend(part), slots, lease):
        say("working")
        await anyio.sleep(stop_after)


@_role
async def drainer(part: Part, *, slots: int, lease: float) -> None:
    """Work until nothing is left to do, and no other worker has a lease."""
    backend = _backend(part)

    async def is_drained() -> bool:
        counts = await backend.counts()
        return counts[State.PENDING] == counts[State.RUNNING] == 0 and leases() == 1

    def leases() -> int:
        return look.execute("SELECT count(*) FROM sitq_worker").fetchone()[0]

    with closing(connect(Path(part.path))) as look:
        async with _worker(part, backend, slots, lease):
            while not await is_drained():
                with anyio.move_on_after(POLL / 10):
                    await backend.changed(backend.token())


@_role
async def enqueuer(part: Part, *, generation: int, only_repeat: bool = False) -> None:
    """Enqueue what an earlier process of this slot got no answer for, then go on until killed."""
    async with TaskQueue(_backend(part)) as queue:
        made = Enqueuer(queue, part.file("tries"), f"{part.slot}.{generation}")
        await made.repeat()
        if not only_repeat:
            await made.go_on()


@_role
async def pruner(part: Part) -> None:
    """Delete ended tasks until killed."""
    async with TaskQueue(_backend(part)) as queue:
        while True:
            await queue.purge(older_than=0.5)
            await anyio.sleep(0.05)


@_role
async def migrator(part: Part) -> None:
    """Open a database that may not be there yet, or not be ready."""
    async with _backend(part) as backend:
        await backend.counts()


@_role
async def reserver(part: Part, *, barrier: str) -> None:
    """Wait for the others at the barrier, then reserve in a race until nothing is left."""
    taken: list[Reservation] = []
    async with _backend(part) as backend:
        me = await backend.hire(WorkerRecord("here", os.getpid(), None, 10, 60.0))
        await anyio.to_thread.run_sync(wait_at, barrier)
        before = -1
        while len(taken) > before:
            before = len(taken)
            await backend.reserve(me, Wanted(10, None), taken.extend)
    journal = part.journal("taken")
    for task in taken:
        journal.write(seq=task.seq, fence=task.fence)

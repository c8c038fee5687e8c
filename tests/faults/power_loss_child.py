"""A program with a queue and a worker, which notes what was acknowledged and when.

``python power_loss_child.py DATABASE LOG FACTS SYNCHRONOUS LOOP ROUNDS FRAMES`` writes its facts as
JSON: each with the size that the record of the disk had when the answer was there. FRAMES is the
number of pages in the log of SQLite after which they are moved into the database.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import anyio

from sitq import Registry, Retry, SQLiteBackend, TaskQueue, Worker
from sitq.backends.base import Filter, Pruned
from sitq.backends.sqlite import connect
from sitq.lifecycle import TERMINAL
from sitq.model import Change, NewTask, State

PATH, LOG, FACTS, SYNCHRONOUS, LOOP, ROUNDS, FRAMES = sys.argv[1:]
SQLITES_FRAMES = 1_000
BIG = 3_000
"""Bytes of a body that stands aside of its row."""
registry = Registry()
facts: list[tuple[int, str, Any]] = []


def note(kind: str, what: Any) -> None:
    facts.append((os.stat(LOG).st_size, kind, what))


@registry.task(name="echo")
async def echo(value: str) -> str:
    return value


@registry.task(name="short")
async def short() -> None:
    """Ends, and is pruned."""


@registry.task(name="later")
async def later() -> None:
    """Is cancelled before its time comes."""


@registry.task(name="fail", retry=Retry(attempts=2, base=0.001, cap=0.002))
async def fail() -> None:
    raise ValueError("x" * BIG)


class Noted(SQLiteBackend):
    """Notes every answer at the moment when the caller has it."""

    async def insert(self, tasks: Sequence[NewTask]) -> list[bytes]:
        ids = await super().insert(tasks)
        note("stored", {"name": tasks[0].name, "ids": [id.hex() for id in ids]})
        return ids

    async def settle(self, worker: int, changes: Sequence[Change], *rest: Any) -> set[int]:
        settled = await super().settle(worker, changes, *rest)
        ends = {c.seq: c.state for c in changes if c.seq in settled and c.state in TERMINAL}
        if ends:
            note("ended", ends)
        return settled

    async def cancel(self, id: bytes) -> State | None:
        state = await super().cancel(id)
        note("cancelled", id.hex())
        return state

    async def prune(self, wanted: Filter, **bounds: Any) -> Pruned:
        note("prunes", None)
        pruned = await super().prune(wanted, **bounds)
        if pruned.deleted:
            note("pruned", None)
        return pruned


async def work(backend: SQLiteBackend, rounds: int) -> None:
    queue = TaskQueue(backend)
    writer = backend._opened.writer
    await writer.run(lambda c: c.execute(f"PRAGMA wal_autocheckpoint = {FRAMES}") and None)
    async with Worker(backend, registry=registry, lease=0.15, retention=None):
        for number in range(rounds):
            handles = [await queue.enqueue(echo, "one by one"), await queue.enqueue(fail)]
            handles += await queue.enqueue_many(
                [echo.call("x" * BIG * (n % 2)) for n in range(number % 5 + 2)]
            )
            await queue.enqueue(short)
            waits = await queue.enqueue(later.using(delay=3600))
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(queue.enqueue, echo, "together")
            await waits.cancel()
            for handle in handles:
                await queue.get_result(handle, timeout=20)
            if number % 3 == 2:
                await queue.purge(name="short")


async def main() -> None:
    if int(FRAMES) < SQLITES_FRAMES:
        connect.LARGE_LOG = 0  # each sweep of the worker cuts the log
    for rounds in (int(ROUNDS) // 2, int(ROUNDS) - int(ROUNDS) // 2):
        async with Noted(PATH, synchronous=SYNCHRONOUS) as backend:
            await work(backend, rounds)


anyio.run(main, backend=LOOP)
with open(FACTS, "w", encoding="ascii") as file:
    json.dump(facts, file)

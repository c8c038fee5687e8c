"""What single steps of the store cost: in a file with many rows, and beside a busy event loop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from sqlite3 import Connection
from typing import Any

import anyio
import anyio.lowlevel

from sitq import SQLiteBackend, Worker
from sitq.backends.base import Wanted
from sitq.backends.commit import Operation
from sitq.backends.sqlite import verbs
from sitq.backends.sqlite.turn import Settle
from sitq.model import Change, Reservation, State, WorkerRecord
from tests.benchmarks.limits import hire, reserve_by_hand, settle_by_hand
from tests.benchmarks.setting import Figures, Setting, percentile
from tests.benchmarks.store import NOTHING, connect, create, fill, insert, new_rows
from tests.benchmarks.tasks import QUEUE, backend_of, registry

__all__ = [
    "prepare_queues",
    "reserve",
    "reserve_by_hand_alone",
    "settle_beside_busy_loop",
    "settle_beside_busy_thread",
    "settle_by_hand_alone",
]

QUEUES = 20
BATCH = 100
LONGEST = 20.0
"""Seconds after which no more turns are taken beside a busy loop, which can starve a thread."""
RECORD = WorkerRecord("benchmark", 1, None, BATCH, 3_600.0)


def prepare_queues(setting: Setting, pending: int, delayed: int) -> Figures:
    """Twenty queues, and in front of one of them delayed rows of a higher priority."""
    create(setting).close()
    with closing(connect(setting.path, "OFF")) as connection:
        insert(connection, new_rows(delayed, priority=10, delay=86_400.0))
        for number in range(QUEUES):
            insert(connection, new_rows(pending // QUEUES, queue=_queue(number)))
    return {}


def _queue(number: int) -> str:
    return QUEUE if number == 0 else f"{QUEUE}-{number}"


def reserve(setting: Setting, turns: int) -> Figures:
    """The statements of one reserve, for the median of some turns of each kind."""
    kinds: dict[str, tuple[str, ...] | None] = {
        "one_queue": (QUEUE,),
        "three_queues": tuple(map(_queue, range(3))),
        "twenty_queues": tuple(map(_queue, range(QUEUES))),
        "no_filter": None,
    }
    with _served(setting) as (connection, worker):
        return {
            f"{kind}_ms": _reserve_often(connection, turns, partial(_reserve, worker, queues))
            for kind, queues in kinds.items()
        }


def reserve_by_hand_alone(setting: Setting, turns: int) -> Figures:
    """The limit: the SQL alone, told where to look."""
    with _served(setting) as (connection, worker):
        by_hand = partial(reserve_by_hand, worker=worker, limit=BATCH)
        return {"one_queue_ms": _reserve_often(connection, turns, by_hand)}


@contextmanager
def _served(setting: Setting) -> Generator[tuple[Connection, int]]:
    """The prepared file and a worker by hand, whose tasks are pending again at the end."""
    with closing(connect(setting.path, setting.synchronous)) as connection:
        yield connection, hire(connection)
        connection.execute("UPDATE sitq_task SET state = 0, worker = NULL WHERE state = 1")


def _reserve(worker: int, queues: tuple[str, ...] | None, connection: Connection) -> Sequence[Any]:
    return verbs.reserve(connection, worker, Wanted(BATCH, queues), time.time())[0]


def _reserve_often(
    connection: Connection, turns: int, reserve: Callable[[Connection], Sequence[Any]]
) -> float:
    """Median of the milliseconds for a hundred."""
    seconds: list[float] = []
    for _ in range(turns):
        connection.execute("BEGIN IMMEDIATE")
        started = time.perf_counter()
        found = reserve(connection)
        seconds.append(time.perf_counter() - started)
        connection.execute("COMMIT")
        if len(found) != BATCH:
            raise RuntimeError(f"{len(found)} tasks were reserved")
    return 1000 * statistics.median(seconds)


def _summary(seconds: list[float]) -> Figures:
    return {"p50_ms": 1000 * statistics.median(seconds), "p90_ms": 1000 * percentile(seconds, 0.9)}


def settle_beside_busy_loop(setting: Setting, turns: int, step: float) -> Figures:
    """What a settle of a worker takes while there is always another task ready to run.

    Short steps are the harder case: between two of them the loop lets go of the interpreter, but
    for so short a moment that the thread, which wakes up for it, comes too late.
    """
    fill(setting, turns * BATCH)
    return setting.run(_settle_beside_busy_loop, setting, turns, step)


async def _settle_beside_busy_loop(setting: Setting, turns: int, step: float) -> Figures:
    backend = _Timed(setting.path, synchronous=setting.synchronous)
    async with anyio.create_task_group() as group:
        group.start_soon(_keep_busy, step)
        async with Worker(backend, registry=registry, max_concurrency=BATCH):
            while len(backend.seconds) < turns and sum(backend.seconds) < LONGEST:
                await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    return _summary(backend.seconds)


class _Timed(SQLiteBackend):
    """Notes how long each settle of a whole batch took."""

    seconds: list[float]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seconds = []

    async def settle(self, worker: int, changes: Sequence[Change], deliver: Any = None) -> set[int]:
        started = time.perf_counter()
        settled = await super().settle(worker, changes, deliver)
        if len(settled) == BATCH:
            self.seconds.append(time.perf_counter() - started)
        return settled


async def _reserved(backend: SQLiteBackend, worker: int) -> list[Reservation]:
    found: list[Reservation] = []
    await backend.reserve(worker, Wanted(BATCH, None), found.extend)
    return found


async def _keep_busy(step: float) -> None:
    while True:
        _spin(step)
        await anyio.lowlevel.checkpoint()


def _spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def _successes(tasks: list[Reservation]) -> list[Change]:
    return [
        Change(t.seq, t.fence, State.SUCCEEDED, t.run_at, 0, 0, t.epoch, NOTHING) for t in tasks
    ]


def settle_beside_busy_thread(setting: Setting, turns: int) -> Figures:
    """What its turn takes in a thread, while the main thread never lets go by itself."""
    fill(setting, turns * BATCH)
    return setting.run(_settle_beside_busy_thread, setting, turns)


async def _settle_beside_busy_thread(setting: Setting, turns: int) -> Figures:
    seconds: list[float] = []
    async with backend_of(setting) as backend:
        worker = await backend.hire(RECORD)
        for _ in range(turns):
            changes = _successes(await _reserved(backend, worker))
            seconds.append(await _settled_beside_spinning(backend, worker, changes))
    return _summary(seconds)


async def _settled_beside_spinning(
    backend: SQLiteBackend, worker: int, changes: list[Change]
) -> float:
    took: list[float] = []
    opened = backend._opened
    assert opened is not None
    commit = partial(opened.commit._commit, batch=[Operation(Settle(worker, changes, time.time()))])

    def settle(connection: Connection) -> None:
        started = time.perf_counter()
        commit(connection)
        took.append(time.perf_counter() - started)

    opened.writer.post(settle, lambda result, error: None)
    while not took:
        pass
    await anyio.lowlevel.checkpoint()
    return took[0]


def settle_by_hand_alone(setting: Setting, turns: int) -> Figures:
    """The limit: the SQL alone, with nothing beside it."""
    fill(setting, turns * BATCH)
    seconds: list[float] = []
    with closing(connect(setting.path, setting.synchronous)) as connection:
        worker = hire(connection)
        for _ in range(turns):
            connection.execute("BEGIN IMMEDIATE")
            rows = reserve_by_hand(connection, worker, BATCH)
            connection.execute("COMMIT")
            started = time.perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            settle_by_hand(connection, worker, rows)
            connection.execute("COMMIT")
            seconds.append(time.perf_counter() - started)
    return _summary(seconds)

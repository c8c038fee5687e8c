"""What is measured on PostgreSQL only: limits by hand, many committers, an old snapshot."""

from __future__ import annotations

import statistics
import time
from collections.abc import Generator, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import anyio
import anyio.to_thread

from sitq import TaskQueue
from sitq.backends.base import Wanted
from sitq.backends.postgres import PostgresBackend
from sitq.backends.postgres.listen import Bell
from sitq.calls import new_ids
from sitq.model import Change, Reservation, State, WorkerRecord
from sitq.serialization import default_serializer, pack_arguments
from tests.benchmarks.child import say, wait_for_word
from tests.benchmarks.postgres_store import connect, create, fill
from tests.benchmarks.scaling import ready, start
from tests.benchmarks.setting import URL, Figures, Setting
from tests.benchmarks.store import NOTHING
from tests.benchmarks.tasks import QUEUE, backend_of, fetch

__all__ = ["backend_alone", "committer", "committers", "copy", "insert_by_hand", "old_snapshot"]

BATCH = 100
TURNS = 50
"""So many reserves at each end make a median."""
RECORD = WorkerRecord("benchmark", 1, None, BATCH, 3_600.0)
COLUMNS = "id, name, queue, priority, run_at, arguments, enqueued"
Row = tuple[Any, ...]


def _rate(count: int, started: float) -> Figures:
    return {"rate_per_s": count / (time.perf_counter() - started)}


def _rows(count: int) -> Iterator[Row]:
    arguments = pack_arguments(default_serializer, (URL, 1), {}, "fetch")
    for id in new_ids(time.time(), count):
        now = datetime.now(UTC)
        yield UUID(bytes=id), "fetch", QUEUE, 0, now, arguments, now


def insert_by_hand(setting: Setting, count: int) -> Figures:
    """One row a statement, which is a transaction, on a plain connection."""
    rows = list(_rows(count))
    query = f"INSERT INTO sitq.task ({COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s)"
    with create(setting) as connection:
        started = time.perf_counter()
        for row in rows:
            connection.execute(query, row)  # pyright: ignore[reportArgumentType]
        return _rate(count, started)


def copy(setting: Setting, count: int, at_once: int) -> Figures:
    """COPY of rows that were made beforehand into the table with its indexes."""
    rows = list(_rows(count))
    with create(setting) as connection:
        started = time.perf_counter()
        for first in range(0, count, at_once):
            with connection.cursor().copy(f"COPY sitq.task ({COLUMNS}) FROM STDIN") as copied:
                for row in rows[first : first + at_once]:
                    copied.write_row(row)
        return _rate(count, started)


def backend_alone(setting: Setting, count: int, slots: int) -> Figures:
    """The limit of a worker: reserve as many as there are slots, then settle them."""
    fill(setting, count)
    return setting.run(_backend_alone, setting, count, slots)


async def _backend_alone(setting: Setting, count: int, slots: int) -> Figures:
    async with backend_of(setting) as backend:
        worker = await backend.hire(RECORD)
        started = time.perf_counter()
        for first in range(0, count, slots):
            tasks = await _reserved(backend, worker, min(slots, count - first))
            await backend.settle(worker, _successes(tasks))
        return _rate(count, started)


async def _reserved(backend: Any, worker: int, limit: int) -> list[Reservation]:
    found: list[Reservation] = []
    await backend.reserve(worker, Wanted(limit, None), found.extend)
    if len(found) != limit:
        raise RuntimeError(f"{len(found)} tasks were reserved, not {limit}")
    return found


def _successes(tasks: list[Reservation]) -> list[Change]:
    return [
        Change(t.seq, t.fence, State.SUCCEEDED, t.run_at, 0, 0, t.epoch, NOTHING) for t in tasks
    ]


def committers(
    setting: Setting, count: int, callers: int, processes: int, delay_us: int, rings: bool
) -> Figures:
    """Callers with a backend each, who enqueue one at a time while each sync takes longer.

    The delay is the server's own: who is about to sync waits so long, with the lock that a sync
    needs, for others to come along.
    """
    with create(setting) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET commit_delay = {delay_us}")
        connection.execute(f"ALTER DATABASE {name} SET commit_siblings = 0")
    options = {"count": count // callers, "callers": callers // processes, "rings": rings}
    with ExitStack() as stack:
        others = ready(stack, "postgres:committer", setting, processes, **options)
        started = start(others)
        for other in others:
            other.hear()
        return _rate(count // callers * callers, started)


def committer(setting: Setting, count: int, callers: int, rings: bool) -> Figures:
    """A companion with some of the callers; its backends ring, or tell nobody of anything."""
    if not rings:
        Bell.ring = lambda self, *what: None
    return setting.run(_commit_when_told, setting, count, callers)


async def _commit_when_told(setting: Setting, count: int, callers: int) -> Figures:
    assert setting.database is not None
    async with AsyncExitStack() as stack:
        queues = [
            await stack.enter_async_context(
                TaskQueue(PostgresBackend(setting.database, pool_size=2))
            )
            for _ in range(callers)
        ]
        say("ready")
        await anyio.to_thread.run_sync(wait_for_word)
        async with anyio.create_task_group() as group:
            for queue in queues:
                group.start_soon(_enqueue, queue, count)
        say("done")
    return {}


async def _enqueue(queue: TaskQueue, count: int) -> None:
    for number in range(count):
        await queue.enqueue(fetch, URL, number)


def old_snapshot(setting: Setting, count: int, turns: int, is_held: bool) -> Figures:
    """What a reserve takes, before and after so many tasks, while nothing dead can be removed."""
    fill(setting, count + 2 * turns * BATCH)
    if not is_held:
        return setting.run(_reserve_often, setting, count, turns)
    with _snapshot(setting):
        return setting.run(_reserve_often, setting, count, turns)


@contextmanager
def _snapshot(setting: Setting) -> Generator[None]:
    """Another session sees the database as it is now, until the end of the block."""
    with connect(setting) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM sitq.worker")
        yield
        connection.execute("ROLLBACK")


async def _reserve_often(setting: Setting, count: int, turns: int) -> Figures:
    async with backend_of(setting) as backend:
        worker = await backend.hire(RECORD)
        seconds: list[float] = []
        for _ in range(2 * turns + count // BATCH):
            started = time.perf_counter()
            tasks = await _reserved(backend, worker, BATCH)
            seconds.append(time.perf_counter() - started)
            await backend.settle(worker, _successes(tasks))
    before, after = statistics.median(seconds[:turns]), statistics.median(seconds[-turns:])
    return {"before_ms": 1000 * before, "after_ms": 1000 * after, "growth": after / before}

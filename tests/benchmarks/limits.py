"""What the parts cost alone: SQLite without tasks, tasks without SQLite, and the disk."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import aiosqlite
import anyio
import anyio.to_thread

from sitq.backends.sqlite import verbs
from sitq.backends.sqlite.queries import SQL, padded, with_values
from tests.benchmarks.setting import URL, Figures, Setting, percentile
from tests.benchmarks.store import NOTHING, connect, create, fill, new_rows
from tests.benchmarks.tasks import QUEUE

__all__ = [
    "aiosqlite_insert",
    "drain_by_hand",
    "fdatasync",
    "group",
    "hire",
    "insert_by_hand",
    "insert_many_by_hand",
    "reserve_by_hand",
    "settle_by_hand",
    "threads",
]

PAGE = b"\0" * 4_120
"""As much as the log of SQLite grows by with a small commit: a page and its header."""


def _rate(count: int, started: float) -> Figures:
    return {"rate_per_s": count / (time.perf_counter() - started)}


def insert_by_hand(setting: Setting, count: int) -> Figures:
    """sitq's insert, a transaction each, on a plain connection."""
    rows = list(new_rows(count, "fetch", (URL, 1)))
    with closing(create(setting)) as connection:
        started = time.perf_counter()
        for row in rows:
            connection.execute(SQL["insert"], row)
        return _rate(count, started)


def insert_many_by_hand(setting: Setting, count: int) -> Figures:
    """executemany of the same rows, made beforehand, in one transaction."""
    rows = list(new_rows(count, "fetch", (URL, 1)))
    with closing(create(setting)) as connection:
        started = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(SQL["insert"], rows)
        connection.execute("COMMIT")
        return _rate(count, started)


def aiosqlite_insert(setting: Setting, count: int) -> Figures:
    """sitq's insert through aiosqlite, a transaction each. It runs on asyncio only."""
    rows = list(new_rows(count, "fetch", (URL, 1)))
    create(setting).close()
    return setting.run(_aiosqlite_insert, setting, rows)


async def _aiosqlite_insert(setting: Setting, rows: list[tuple[Any, ...]]) -> Figures:
    async with aiosqlite.connect(setting.path, isolation_level=None) as connection:
        await connection.execute(f"PRAGMA synchronous = {setting.synchronous}")
        started = time.perf_counter()
        for row in rows:
            await connection.execute(SQL["insert"], row)
        return _rate(len(rows), started)


def fdatasync(setting: Setting, count: int) -> Figures:
    """A page appended and synced to the disk, again and again."""
    seconds: list[float] = []
    with Path(setting.folder, "synced").open("wb", buffering=0) as file:
        for _ in range(count):
            started = time.perf_counter()
            file.write(PAGE)
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - started)
    return {"rate_per_s": count / sum(seconds), "p50_ms": 1000 * percentile(seconds, 0.5)}


def hire(connection: Connection) -> int:
    """A worker by hand, since tasks are given to none but such as have a lease."""
    row = ("by hand", os.getpid(), None, 1, 3_600.0, time.time(), "", time.monotonic())
    worker = connection.execute(SQL["hire"], row).lastrowid
    assert worker is not None
    return worker


def reserve_by_hand(connection: Connection, worker: int, limit: int) -> list[Any]:
    """Reserve with sitq's SQL, from one queue, in the caller's transaction."""
    now = time.time()
    found = connection.execute(verbs._merged(1), (QUEUE, 0, now, now, "[]", limit)).fetchall()
    if not found:
        return []
    sql = with_values("reserve", "?", len(found))
    values = (worker, now, *padded([seq for seq, _ in found]), 1 << 20)
    return connection.execute(sql, values).fetchall()


_SETTLE = """
WITH v (seq, fence, value, change) AS (VALUES {values})
UPDATE sitq_task SET
    state = 2, crashes = 0, value = v.value, change = v.change, worker = NULL, ended = ?
FROM v
WHERE sitq_task.seq = v.seq AND sitq_task.fence = v.fence AND sitq_task.worker = ?
    AND sitq_task.state = 1
"""


@cache
def _settle_sql(count: int) -> str:
    return _SETTLE.replace("{values}", ", ".join(["(?, ?, ?, ?)"] * count))


def settle_by_hand(connection: Connection, worker: int, rows: list[Any]) -> None:
    """Settle successes in one statement, in the caller's transaction."""
    [last] = connection.execute(SQL["raise_ended"], (len(rows),)).fetchone()
    values: list[Any] = []
    for change, row in enumerate(rows, last - len(rows) + 1):
        values += (row[0], row[5], NOTHING, change)
    connection.execute(_settle_sql(len(rows)), (*values, time.time(), worker))


def drain_by_hand(setting: Setting, count: int, slots: int) -> Figures:
    """Reserve as many as there are slots and settle those before, in one transaction each."""
    fill(setting, count)
    with closing(connect(setting.path, setting.synchronous)) as connection:
        worker = hire(connection)
        held: list[Any] = []
        started = time.perf_counter()
        while True:
            connection.execute("BEGIN IMMEDIATE")
            if held:
                settle_by_hand(connection, worker, held)
            held = reserve_by_hand(connection, worker, slots)
            connection.execute("COMMIT")
            if not held:
                return _rate(count, started)


async def _nothing() -> None:
    pass


def _nothing_sync() -> None:
    pass


def group(setting: Setting, count: int, slots: int) -> Figures:
    """A bare task group with a limiter: one task a call, as many at a time as there are slots."""
    return setting.run(_in_group, lambda _: _nothing, count, slots)


def threads(setting: Setting, count: int, slots: int) -> Figures:
    """The same, each call in a thread."""
    run = anyio.to_thread.run_sync
    return setting.run(
        _in_group, lambda limiter: partial(run, _nothing_sync, limiter=limiter), count, slots
    )


async def _in_group(
    caller: Callable[[anyio.CapacityLimiter], Callable[[], Awaitable[None]]],
    count: int,
    slots: int,
) -> Figures:
    limiter = anyio.CapacityLimiter(slots)
    call = caller(anyio.CapacityLimiter(slots))
    freed = anyio.Event()

    async def one(slot: int) -> None:
        try:
            await call()
        finally:
            limiter.release_on_behalf_of(slot)
            freed.set()

    started = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        left = count
        while left:
            for slot in range(left, left - min(left, int(limiter.available_tokens)), -1):
                limiter.acquire_on_behalf_of_nowait(slot)
                tasks.start_soon(one, slot)
                left -= 1
            freed = anyio.Event()
            await freed.wait()
    return _rate(count, started)

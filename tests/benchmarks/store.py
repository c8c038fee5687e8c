"""A store that is filled by hand: as sitq's own calls fill it, but sooner."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

from sitq.backends.sqlite.queries import SQL
from sitq.calls import new_ids
from sitq.serialization import default_serializer, pack, pack_arguments
from tests.benchmarks.setting import Setting
from tests.benchmarks.tasks import QUEUE, backend_of

__all__ = [
    "NOTHING",
    "connect",
    "create",
    "ended",
    "fill",
    "fill_ended",
    "insert",
    "new_rows",
    "topped_up",
]

CHUNK = 10_000
NOTHING = pack(default_serializer, None, "nothing")
"""The result of a function that returns nothing."""


def connect(path: str, synchronous: str) -> sqlite3.Connection:
    """A plain connection with the settings of sitq's own."""
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, cached_statements=256)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA cache_size = -16384")
    return connection


async def _open(setting: Setting) -> None:
    async with backend_of(setting):
        pass


def create(setting: Setting) -> sqlite3.Connection:
    """Let sitq create the database, and connect to it."""
    setting.run(_open, setting)
    return connect(setting.path, setting.synchronous)


def new_rows(
    count: int,
    name: str = "nothing",
    args: tuple[Any, ...] = (),
    *,
    queue: str = QUEUE,
    priority: int = 0,
    delay: float = 0.0,
) -> Iterator[tuple[Any, ...]]:
    """Values for sitq's own ``insert``."""
    packed = pack_arguments(default_serializer, args, {}, name)
    for _ in range(count):
        now = time.time()
        [id] = new_ids(now, 1)
        yield id, name, queue, priority, now + delay, None, None, None, None, packed, now


def _in_chunks(connection: sqlite3.Connection, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
    remaining = iter(rows)
    while chunk := list(islice(remaining, CHUNK)):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(sql, chunk)
        connection.execute("COMMIT")


def fill(setting: Setting, count: int, name: str = "nothing") -> None:
    """Create the database with so many pending tasks."""
    with closing(create(setting)) as connection:
        insert(connection, new_rows(count, name))


def insert(connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Store pending tasks."""
    _in_chunks(connection, SQL["insert"], rows)


def fill_ended(connection: sqlite3.Connection, count: int) -> None:
    """Store tasks that have succeeded."""
    before = ended(connection)
    sql = (
        "INSERT INTO sitq_task (id, name, queue, priority, run_at, enqueued, arguments,"
        " state, fence, started, ended, change, value)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 2, 1, ?, ?, ?, ?)"
    )
    rows = (
        (*row[:5], row[9], row[10], row[9], row[9], number, NOTHING)
        for number, row in enumerate(new_rows(count), before + 1)
    )
    _in_chunks(connection, sql, rows)
    connection.execute("UPDATE sitq_meta SET value = value + ? WHERE name = 'ended'", (count,))


def ended(connection: sqlite3.Connection) -> int:
    """How many tasks have ended."""
    return dict(connection.execute(SQL["meta"]).fetchall())["ended"]


def topped_up(setting: Setting, pending: int) -> sqlite3.Connection:
    """Create the tables if they are missing, and see that there are so many pending tasks."""
    fill(setting, 0)
    connection = connect(setting.path, setting.synchronous)
    [there] = connection.execute("SELECT count(*) FROM sitq_task WHERE state = 0").fetchone()
    insert(connection, new_rows(pending - there))
    return connection

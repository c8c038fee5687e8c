"""A store on PostgreSQL that is filled by hand, and looked at."""

from __future__ import annotations

from typing import Any

import psycopg

from sitq.serialization import default_serializer, pack_arguments
from tests.benchmarks.setting import Figures, Setting
from tests.benchmarks.store import NOTHING
from tests.benchmarks.tasks import QUEUE, backend_of

__all__ = [
    "connect",
    "create",
    "fill",
    "have_ended",
    "insert",
    "prepare_history",
    "settled",
    "top_up",
]

Connection = psycopg.Connection[tuple[Any, ...]]

_ROWS = """
INSERT INTO sitq.task (id, name, queue, priority, run_at, enqueued, arguments{columns})
SELECT
    (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0') || '7'
        || lpad(to_hex(number / 65536), 3, '0') || '8' || lpad(to_hex(mod(number, 65536)), 4, '0')
        || substr(md5(random()::text), 1, 11))::uuid,
    %(name)s, %(queue)s, 0, now(), now(), %(arguments)s{values}
FROM generate_series(1, %(count)s) AS number
"""
"""Ids that are ordered by time, as those of sitq are."""


async def _open(setting: Setting) -> None:
    async with backend_of(setting):
        pass


def connect(setting: Setting) -> Connection:
    """A plain connection on which every statement is a transaction."""
    assert setting.database is not None
    return psycopg.connect(setting.database, autocommit=True)


def create(setting: Setting) -> Connection:
    """Let sitq create the tables, and connect to them."""
    setting.run(_open, setting)
    return connect(setting)


def fill(setting: Setting, count: int, name: str = "nothing") -> None:
    """Create the tables with so many pending tasks."""
    with create(setting) as connection:
        insert(connection, count, name)


def insert(
    connection: Connection, count: int, name: str = "nothing", columns: str = "", values: str = ""
) -> None:
    """Store pending tasks, or such as have more columns."""
    connection.execute(
        _ROWS.format(columns=columns, values=values),  # pyright: ignore[reportArgumentType]
        {
            "name": name,
            "queue": QUEUE,
            "arguments": pack_arguments(default_serializer, (), {}, name),
            "count": count,
            "value": NOTHING,
        },
    )


def settled(connection: Connection) -> None:
    """Have the server do now what it would do at some time: it is not to fall into a figure."""
    connection.execute("VACUUM (ANALYZE) sitq.task")
    connection.execute("CHECKPOINT")


def prepare_history(setting: Setting, ended: int, pending: int) -> Figures:
    """Tables with many tasks that have ended and many that wait."""
    with create(setting) as connection:
        insert(
            connection,
            ended,
            columns=", state, fence, started, ended, change, value",
            values=", 2, 1, now(), now(), nextval('sitq.ended'), %(value)s",
        )
        insert(connection, pending)
        settled(connection)
    return {}


def top_up(setting: Setting, pending: int) -> None:
    """Create the tables if they are missing, and see that there are so many pending tasks."""
    with create(setting) as connection:
        [(there,)] = connection.execute("SELECT count(*) FROM sitq.task WHERE state = 0")
        insert(connection, max(0, pending - there))


def have_ended(connection: Connection, count: int) -> bool:
    """Whether so many tasks have ended, and that is stored."""
    [(numbered,)] = connection.execute("SELECT last_value FROM sitq.ended")
    if numbered < count:  # a look that costs nothing, but is ahead of the commits
        return False
    [(stored,)] = connection.execute("SELECT count(*) FROM sitq.task WHERE state >= 2")
    return stored >= count

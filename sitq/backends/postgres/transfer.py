"""Copies the tables of a SQLite file, as they are, into tables that are empty."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psycopg import DataError, IntegrityError

from sitq.backends.postgres.connect import Connection, Server, as_query, check_schema
from sitq.backends.postgres.migrate import prepared
from sitq.errors import StoreUnusable, UsageError, WrongState

__all__ = ["transfer"]

_TASK = (
    *("seq", "id", "name", "queue", "state", "priority", "run_at", "key", "fence", "attempts"),
    *("crashes", "epoch", "cancel", "timeout", "deadline", "retry", "unknown_since", "enqueued"),
    *("started", "ended", "change", "arguments", "value", "error", "group_id", "child", "born"),
    "digest",
)
_GROUP = ("id", "parent", "ordinal", "epoch", "generation", "deadline", "cancelled")
"""The columns that both stores have, by the same names."""
_PROGRESS = ("seq", "fence", "done", "total", "note", "at")
_BODIES = ("arguments", "value", "error")
"""What stands aside in the file where it is large, in the order of its parts."""
_TIMES = frozenset(("run_at", "deadline", "unknown_since", "enqueued", "started", "ended", "at"))
_TRUTHS = frozenset(("cancel", "cancelled"))
_NUMBERED = (
    "SELECT setval('sitq.enqueued', max(seq)) FROM sitq.task",
    "SELECT setval('sitq.ended', max(change)) FROM sitq.task",
    "SELECT setval(pg_get_serial_sequence('sitq.task_group', 'id'), max(id)) FROM sitq.task_group",
)


def transfer(path: Path, url: str, schema: str) -> int:
    """As `sitq.transfer.transfer` says."""
    server = Server(url, check_schema(schema), 30.0, None)
    with closing(_opened(path)) as file, server.judged(), server.connect() as connection:
        prepared(connection, server)
        connection.limit = 3600.0  # it takes as long as it takes
        try:
            with connection.transaction():
                _check_empty(connection, schema)
                _copy(connection, f"{schema}.task_group", _GROUP, _groups(file))
                count = _copy(connection, f"{schema}.task", _TASK, _tasks(file))
                _copy(connection, f"{schema}.progress", _PROGRESS, _progress(file))
                for query in _NUMBERED:
                    connection.execute(as_query(query.replace("sitq.", f"{schema}.")))
        except (DataError, IntegrityError, sqlite3.DatabaseError) as error:
            raise StoreUnusable(f"{path}: a row of it is damaged: {error}") from error
    return count


def _opened(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    file = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        file.execute("BEGIN")
        workers = file.execute("SELECT count(*) FROM sitq_worker").fetchone()[0]
        running = file.execute("SELECT count(*) FROM sitq_task WHERE state = 1").fetchone()[0]
    except sqlite3.DatabaseError as error:
        file.close()
        raise StoreUnusable(f"{path}: {error}: it is no database of sitq") from error
    if workers or running:
        file.close()
        raise WrongState(
            f"{path} is in use: it has {workers} leases and {running} running tasks; stop its "
            "workers and programs. What died is taken back by a worker that runs for a moment"
        )
    return file


def _check_empty(connection: Connection, schema: str) -> None:
    connection.execute(as_query(f"LOCK TABLE {schema}.task IN EXCLUSIVE MODE"))
    query = "SELECT EXISTS (SELECT 1 FROM sitq.task)".replace("sitq.", f"{schema}.")
    if connection.execute(as_query(query)).fetchone() != (False,):
        raise UsageError(f"the schema {schema} has tasks already; name another one")


def _groups(file: sqlite3.Connection) -> Iterator[Mapping[str, Any]]:
    """Those of tasks: a group of a program goes when the program goes."""
    return _rows(file, "SELECT * FROM sitq_group WHERE parent IS NOT NULL ORDER BY id")


def _tasks(file: sqlite3.Connection) -> Iterator[Mapping[str, Any]]:
    large = {(seq, part) for seq, part in file.execute("SELECT seq, part FROM sitq_big").fetchall()}
    for row in _rows(file, "SELECT * FROM sitq_task ORDER BY seq"):
        fields = dict(row)
        for part, name in enumerate(_BODIES):
            if (row["seq"], part) in large:
                query = "SELECT body FROM sitq_big WHERE seq = ? AND part = ?"
                fields[name] = file.execute(query, (row["seq"], part)).fetchone()[0]
        yield fields


def _progress(file: sqlite3.Connection) -> Iterator[Mapping[str, Any]]:
    """What tasks have told; nothing in a file that no sitq has opened that could write it."""
    exists = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'sitq_progress'"
    if file.execute(exists).fetchone() is None:
        return iter(())
    return _rows(file, "SELECT p.*, t.fence FROM sitq_progress p JOIN sitq_task t ON t.seq = p.seq")


def _rows(file: sqlite3.Connection, query: str) -> Iterator[Mapping[str, Any]]:
    cursor = file.execute(query)
    names = [column[0] for column in cursor.description]
    for row in cursor:
        yield dict(zip(names, row, strict=True))


def _copy(
    connection: Connection,
    table: str,
    columns: tuple[str, ...],
    rows: Iterable[Mapping[str, Any]],
) -> int:
    count = 0
    statement = as_query(f"COPY {table} ({', '.join(columns)}) FROM STDIN")
    with connection.cursor().copy(statement) as copy:
        for row in rows:
            copy.write_row([_value(name, row[name]) for name in columns])
            count += 1
    return count


def _value(name: str, value: Any) -> Any:
    """A value as PostgreSQL has it."""
    if value is None:
        return None
    if name in _TIMES:
        return datetime.fromtimestamp(value, UTC)
    if name in _TRUTHS:
        return value == 1
    return value.hex() if name == "id" and isinstance(value, bytes) else value

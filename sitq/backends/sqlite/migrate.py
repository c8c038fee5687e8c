"""The schema as a ladder: each rung is a script that takes a database to the next version."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from sitq.backends.sql import load
from sitq.errors import StoreUnusable, StoreVersionError

__all__ = ["NOT_OURS", "RUNGS", "climb", "is_climbed", "refuse_newer"]

RUNGS: tuple[str, ...] = tuple(
    load("sitq.backends.sqlite", name) for name in ("schema.sql", "schema_2.sql")
)
"""Rung n takes a database from version n to n + 1; version 0 is a file without tables of sitq.

A rung that was released once stays as it is: what changes the schema is a new one.
"""
NOT_OURS = "its tables are not those of sitq, or are damaged; name another file, or restore it"


def refuse_newer(connection: sqlite3.Connection, path: str) -> None:
    """Leave a database alone that a newer sitq has made.

    Raises:
        StoreVersionError: it has more rungs behind it than there are here.
    """
    found = _version(connection)
    if found > len(RUNGS):
        raise StoreVersionError(
            f"{path} has schema version {found}, this sitq knows {len(RUNGS)}: upgrade sitq"
        )


def is_climbed(connection: sqlite3.Connection) -> bool:
    """Whether the schema is the newest: whether there is nothing for `climb` to do."""
    return _version(connection) == len(RUNGS)


def climb(connection: sqlite3.Connection) -> None:
    """Bring the schema to the newest version, inside the caller's transaction."""
    for rung in range(_version(connection), len(RUNGS)):
        for statement in _statements(RUNGS[rung]):
            connection.execute(statement)
        connection.execute("UPDATE sitq_meta SET value = ? WHERE name = 'version'", (rung + 1,))
    names = {row[0] for row in connection.execute("SELECT name FROM sitq_meta")}
    if not names >= {"version", "ended", "pruned"}:
        raise StoreUnusable(f"the table sitq_meta lacks a counter: {NOT_OURS}")


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: ``executescript`` would commit the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _version(connection: sqlite3.Connection) -> int:
    exists = "SELECT count(*) FROM sqlite_master WHERE name = 'sitq_meta' AND type = 'table'"
    if connection.execute(exists).fetchone()[0] == 0:
        return 0
    found = connection.execute("SELECT value FROM sitq_meta WHERE name = 'version'").fetchone()
    if found is None or not isinstance(found[0], int):
        raise StoreUnusable(f"the table sitq_meta names no version: {NOT_OURS}")
    return found[0]

"""Refuses a database whose tables, views or triggers are named like those of sitq and are not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache

from sitq.backends.sqlite.migrate import NOT_OURS
from sitq.errors import StoreUnusable

__all__ = ["refuse_others"]

_OBJECTS = r"""
SELECT lower(type), lower(name) FROM sqlite_master
WHERE name LIKE 'sitq\_%' ESCAPE '\' OR tbl_name LIKE 'sitq\_%' ESCAPE '\'
"""


def refuse_others(connection: sqlite3.Connection, path: str, scripts: tuple[str, ...]) -> None:
    """Look whether everything is there that the scripts make, and no trigger on it.

    More columns, tables or indexes do no harm.

    Raises:
        StoreUnusable: something is missing, is something else, or changes what is stored.
    """
    found = set(connection.execute(_OBJECTS))
    for kind, name in sorted(_objects(scripts) - found):
        raise StoreUnusable(f"{path}: there is no {kind} {name} in it: {NOT_OURS}")
    for kind, name in sorted(found):
        if kind == "trigger":
            raise StoreUnusable(f"{path}: the trigger {name} changes what sitq stores; drop it")
    for table, columns in _columns(scripts).items():
        for column in sorted(columns - _columns_of(connection, table)):
            raise StoreUnusable(f"{path}: the table {table} has no column {column}: {NOT_OURS}")


@cache
def _objects(scripts: tuple[str, ...]) -> frozenset[tuple[str, str]]:
    with closing(_made(scripts)) as connection:
        return frozenset(connection.execute(_OBJECTS))


@cache
def _columns(scripts: tuple[str, ...]) -> dict[str, frozenset[str]]:
    tables = [name for kind, name in _objects(scripts) if kind == "table"]
    with closing(_made(scripts)) as connection:
        return {table: _columns_of(connection, table) for table in tables}


def _made(scripts: tuple[str, ...]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.executescript("".join(scripts))
    return connection


def _columns_of(connection: sqlite3.Connection, table: str) -> frozenset[str]:
    rows = connection.execute("SELECT lower(name) FROM pragma_table_info(?)", (table,))
    return frozenset(name for (name,) in rows)

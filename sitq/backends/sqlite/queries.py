"""The queries of this store, and the numbers of the tasks as they end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from sqlite3 import Connection
from typing import Any

from sitq.backends.sql import load_queries
from sitq.errors import StoreUnusable

__all__ = [
    "ARGUMENTS",
    "ERROR",
    "INLINE",
    "SQL",
    "VALUE",
    "number_ends",
    "padded",
    "padded_size",
    "with_rows",
    "with_values",
]

SQL: Mapping[str, str] = load_queries("sitq.backends.sqlite", "queries.sql", "groups.sql")

INLINE = 1024
"""Bytes up to which a body stands in the row of its task."""
ARGUMENTS, VALUE, ERROR = 0, 1, 2
"""The parts of a task whose bodies can stand aside."""


def number_ends(connection: Connection, ends: int) -> int:
    """Take numbers for so many tasks that end now. Returns the one before the first.

    Raises:
        StoreUnusable: the counter is gone, or is none.
    """
    row = connection.execute(SQL["raise_ended"], (ends,)).fetchone()
    if row is None or type(row[0]) is not int:
        raise StoreUnusable("the table sitq_meta has lost its counter of ended tasks; restore it")
    return row[0] - ends


def padded_size(count: int) -> int:
    """The count, rounded up by an eighth at the most: few texts serve all sizes."""
    step = 1 << max(0, count.bit_length() - 4)
    return -(-count // step) * step


def padded(seqs: Sequence[int]) -> list[int | None]:
    """The numbers, and as many empty places as the text has beside them."""
    return [*seqs, *[None] * (padded_size(len(seqs)) - len(seqs))]


def with_values(name: str, item: str, count: int) -> str:
    """A query with places for so many values, and for some more."""
    return _sized(name, item, padded_size(count))


def with_rows(name: str, rows: Sequence[Sequence[Any]]) -> tuple[str, list[Any]]:
    """A query with places for these rows, and for some more; and the values for all of them."""
    columns = len(rows[0])
    values = [*chain.from_iterable(rows)]
    values += [None] * (columns * (padded_size(len(rows)) - len(rows)))
    return with_values(name, f"({', '.join('?' * columns)})", len(rows)), values


@lru_cache(maxsize=256)
def _sized(name: str, item: str, size: int) -> str:
    """One text for each padded size, so that SQLite's cache of statements serves most calls."""
    return SQL[name].replace("{values}", ", ".join([item] * size))

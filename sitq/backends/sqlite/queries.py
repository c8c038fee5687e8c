"""The queries of this store, and its numbers: of the states, and of the tasks as they end."""

from __future__ import annotations

from collections.abc import Mapping
from sqlite3 import Connection

from sitq.backends.sql import load_queries
from sitq.errors import StoreUnusable
from sitq.model import State

__all__ = ["NUMBERS", "SQL", "STATES", "number_ends"]

SQL: Mapping[str, str] = load_queries("sitq.backends.sqlite")

STATES: tuple[State, ...] = (
    State.PENDING,
    State.RUNNING,
    State.SUCCEEDED,
    State.FAILED,
    State.CANCELLED,
)
NUMBERS: Mapping[State, int] = {state: number for number, state in enumerate(STATES)}


def number_ends(connection: Connection, ends: int) -> int:
    """Take numbers for so many tasks that end now. Returns the one before the first.

    Raises:
        StoreUnusable: the counter is gone, or is none.
    """
    row = connection.execute(SQL["raise_ended"], (ends,)).fetchone()
    if row is None or type(row[0]) is not int:
        raise StoreUnusable("the table sitq_meta has lost its counter of ended tasks; restore it")
    return row[0] - ends

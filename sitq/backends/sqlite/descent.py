"""Cancels what stands below a task that is over: no live child under an ended parent is ever seen.

To be called in the transaction that ends the parent. It is not asked what the tasks are doing: each
gets a new fence, so that whatever their runs bring home is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from sqlite3 import Connection

from sitq.backends.sqlite.queries import SQL, number_ends

__all__ = ["cancel_below", "cancel_trees"]


def cancel_below(connection: Connection, seqs: Sequence[int], now: float) -> int:
    """Cancel all live tasks under these, at any depth. Returns how many."""
    return _cancel(connection, _live_below(connection, seqs), now) if seqs else 0


def cancel_trees(connection: Connection, seqs: Sequence[int], now: float) -> None:
    """Cancel these live tasks, and all live ones under them."""
    if seqs:
        _cancel(connection, [*seqs, *_live_below(connection, seqs)], now)


def _live_below(connection: Connection, seqs: Sequence[int]) -> list[int]:
    return [row[0] for row in connection.execute(SQL["live_below"], (json.dumps(seqs),))]


def _cancel(connection: Connection, seqs: Sequence[int], now: float) -> int:
    if seqs:
        last = number_ends(connection, len(seqs))
        connection.execute(SQL["cancel_all"], (now, last, json.dumps(seqs)))
    return len(seqs)

"""Brings the ends of runs home: the changes of a whole batch, in as few statements as can be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from sqlite3 import Connection
from typing import Any, NamedTuple

from sitq.backends.sqlite.damage import condemn
from sitq.backends.sqlite.descent import cancel_below
from sitq.backends.sqlite.queries import ERROR, INLINE, SQL, VALUE, number_ends, with_rows
from sitq.backends.states import NUMBERS
from sitq.lifecycle import TERMINAL
from sitq.model import Change, State

__all__ = ["Settled", "settle"]


class Settled(NamedTuple):
    """What became of some changes."""

    seqs: set[int]
    """Of the tasks that were changed."""
    is_all: bool = True
    """Whether every change was made, and no other: none to a damaged task, or below these."""


def settle(
    connection: Connection,
    worker: int | None,
    changes: Sequence[Change],
    now: float,
    state: State = State.RUNNING,
    *,
    is_sweep: bool = False,
) -> Settled:
    """Apply changes to tasks of this worker (None: of nobody) that are in ``state``.

    What stands below a task that is over is cancelled: it ended, or begins anew by its policy.

    Args:
        is_sweep: a sweep has decided this, by the rows as they are. What a worker brings home was
            decided by its reservation, and cannot add to crashes that were forgiven since.
    """
    made = _settle(connection, worker, changes, now, state, is_sweep=is_sweep)
    if len(made) < len(changes):
        ignored = [
            change.seq
            for change in changes
            if change[:2] not in made and _was_ignored(connection, worker, change, state)
        ]
        condemn(connection, ignored, now)
    below = _settle_family(connection, [c for c in changes if c[:2] in made], now)
    return Settled({seq for seq, _ in made}, len(made) == len(changes) and not below)


def _settle_family(connection: Connection, changes: Sequence[Change], now: float) -> int:
    """What the changes mean for parents and children. Returns how many of these were cancelled."""
    ended = [change.seq for change in changes if change.state in TERMINAL]
    if ended:
        connection.execute(SQL["spare_parents"], (json.dumps(ended),))
    over = [change.seq for change in changes if not _keeps_error(change)]
    return cancel_below(connection, over, now)


def _settle(
    connection: Connection,
    worker: int | None,
    changes: Sequence[Change],
    now: float,
    state: State,
    *,
    is_sweep: bool,
) -> set[tuple[int, int]]:
    if not changes:
        return set()
    ends = sum(change.state in TERMINAL for change in changes)
    counter = number_ends(connection, ends)
    rows: list[tuple[Any, ...]] = []
    for change in changes:
        ended = change.state in TERMINAL
        counter += ended
        rows.append(_changed_row(change, counter if ended else None))
    sql, values = with_rows("settle", rows)
    done = connection.execute(sql, (*values, is_sweep, now, worker, NUMBERS[state])).fetchall()
    made = set(done)  # a batch may hold an old run of a task beside its present one
    _put_big_ends(connection, [change for change in changes if change[:2] in made])
    return made


def _was_ignored(connection: Connection, worker: int | None, change: Change, state: State) -> bool:
    what = (change.seq, change.fence, worker, NUMBERS[state], NUMBERS[change.state])
    return connection.execute(SQL["was_ignored"], what).fetchone() is not None


def _changed_row(change: Change, number: int | None) -> tuple[Any, ...]:
    value, error = change.value, change.error
    return (
        change.seq,
        change.fence,
        NUMBERS[change.state],
        change.run_at,
        change.attempts,
        change.crashes,
        change.epoch,
        change.unknown_since,
        value if value is None or len(value) <= INLINE else None,
        error if error is None or len(error) <= INLINE else None,
        number,
        _keeps_error(change),
    )


def _keeps_error(change: Change) -> bool:
    """A task that goes back without having failed again keeps its last error."""
    return change.error is None and change.state is State.PENDING


def _put_big_ends(connection: Connection, changes: Sequence[Change]) -> None:
    for change in changes:
        if change.attempts and not _keeps_error(change):
            connection.execute(SQL["drop_big"], (change.seq, ERROR))
        for part, body in ((VALUE, change.value), (ERROR, change.error)):
            if body is not None and len(body) > INLINE:
                connection.execute(SQL["put_big"], (change.seq, part, body))

"""The verbs of the backend as plain functions, each to run inside a transaction of its caller."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from sqlite3 import SQLITE_CONSTRAINT_UNIQUE, Connection, IntegrityError
from typing import Any

from sitq.backends.base import Filter, Wanted
from sitq.backends.pruning import most_ends
from sitq.backends.sqlite.damage import LATEST, condemn, is_name, is_sound, shown
from sitq.backends.sqlite.descent import cancel_below
from sitq.backends.sqlite.queries import ERROR, SQL, VALUE, number_ends, padded, with_values
from sitq.backends.states import NUMBERS, STATES
from sitq.errors import KeyTaken, WrongState
from sitq.model import Change, Note, Reservation, State, TaskRow

MOST_MERGED = 100
"""Queues that one statement looks into; SQLite takes 500."""


def is_ready(connection: Connection, wanted: Wanted, now: float) -> bool:
    """Whether `reserve` would find anything. A plain look, without a transaction."""
    return bool(_ready(connection, wanted._replace(limit=1), now))


def next_due(connection: Connection, wanted: Wanted, now: float) -> float | None:
    """When the next task is due that is not due yet."""
    times = [
        connection.execute(SQL["next_due"], (queue, priority, now)).fetchone()[0]
        for queue, priority in _pairs(connection, wanted)
    ]
    return min((time for time in times if type(time) is float), default=None)


def reserve(
    connection: Connection, worker: int, wanted: Wanted, now: float
) -> tuple[list[Reservation], list[Change]]:
    """Give pending tasks to the worker, in the order in which they are to start.

    Returns the tasks, and what became of those that cannot be given to anybody.
    """
    chosen = _ready(connection, wanted, now)
    if not chosen:
        return [], []
    sql = with_values("reserve", "?", len(chosen))
    rows = connection.execute(sql, (worker, now, *padded(chosen), wanted.largest)).fetchall()
    given = {task.seq: task for task in map(Reservation._make, rows) if is_sound(task)}
    others = [seq for seq in chosen if seq not in given]
    if others and connection.execute(SQL["has_lease"], (worker,)).fetchone() is None:
        return [], []
    return [given[seq] for seq in chosen if seq in given], condemn(connection, others, now)


def _ready(connection: Connection, wanted: Wanted, now: float) -> list[int]:
    chosen: list[int] = []
    skip = json.dumps(wanted.skip)
    suspect = wanted.suspect
    pairs = _pairs(connection, wanted)
    for priority in sorted({priority for _, priority in pairs}, reverse=True):
        rest = wanted.limit - len(chosen)
        if rest <= 0:
            break
        found: list[tuple[float, int]] = []
        suspects: list[tuple[float, int]] = []
        queues = [(queue, priority, now, now, skip) for queue, its in pairs if its == priority]
        for start in range(0, len(queues), MOST_MERGED):
            some = queues[start : start + MOST_MERGED]
            values = (*chain.from_iterable(some), rest)
            found += _by_time(connection.execute(_merged(len(some)), values))
        if suspect:
            for queue in queues:
                suspects += _by_time(connection.execute(SQL["ready_suspect"], queue))
        if suspects:
            found.append(min(suspects))
        found.sort()
        del found[rest:]
        suspect = suspect and not (suspects and min(suspects) in found)
        chosen += [seq for _, seq in found]
    return chosen


@lru_cache
def _merged(queues: int) -> str:
    """One look into so many queues: SQLite walks along all of them at once, up to the limit."""
    return " UNION ALL ".join([SQL["ready"]] * queues) + " ORDER BY run_at, seq LIMIT ?"


def _by_time(rows: Iterable[tuple[int, float]]) -> list[tuple[float, int]]:
    return [(run_at, seq) for seq, run_at in rows]


def _pairs(connection: Connection, wanted: Wanted) -> list[tuple[str, int]]:
    pairs = [pair for pair in connection.execute(SQL["pairs"]) if type(pair[1]) is int]
    if wanted.queues is None:
        return pairs
    return [pair for pair in pairs if pair[0] in wanted.queues]


def progress(connection: Connection, worker: int, notes: Sequence[Note]) -> None:
    """Keep what runs of the worker have told."""
    connection.executemany(
        SQL["progress"], [(*told, seq, fence, worker) for seq, fence, *told in notes]
    )


def cancelled(connection: Connection, worker: int, children: Sequence[int]) -> set[int]:
    """The tasks of a worker that are to end, and those ``children`` that it runs no longer."""
    found = connection.execute(SQL["cancelled"], (worker,)).fetchall()
    if children:
        found += connection.execute(SQL["taken"], (json.dumps(children), worker)).fetchall()
    return {row[0] for row in found}


def _state(number: Any) -> State | None:
    return STATES[number] if type(number) is int and 0 <= number < len(STATES) else None


def _state_of(connection: Connection, id: bytes, now: float) -> tuple[int, State | None]:
    found: tuple[int, Any] | None = connection.execute(SQL["state_of"], (id,)).fetchone()
    if found is None:
        return 0, None
    seq, number = found
    state = _state(number)
    if state is None:
        condemn(connection, [seq], now)
    return seq, state or State.FAILED


def cancel(connection: Connection, id: bytes, now: float) -> State | None:
    """Cancel a pending task, ask the worker of a running one. Returns the state it was in."""
    seq, state = _state_of(connection, id, now)
    if state is State.PENDING:
        number = number_ends(connection, 1) + 1
        done = connection.execute(SQL["cancel_pending"], (number, now, seq))
    elif state is State.RUNNING:
        done = connection.execute(SQL["cancel_running"], (seq,))
    else:
        return state
    if done.rowcount == 0:
        condemn(connection, [seq], now)
    elif state is State.PENDING:
        cancel_below(connection, [seq], now)
    return state


def revive(connection: Connection, id: bytes, now: float) -> State | None:
    """Make a failed or cancelled task pending again. Returns the state it was in."""
    seq, state = _state_of(connection, id, now)
    if state is None:
        return None
    if not connection.execute(SQL["group_is_open"], (seq,)).fetchone()[0]:
        raise WrongState("the group of the task has ended, and nobody would wait for it")
    try:
        connection.execute(SQL["revive"], (now, seq))
    except IntegrityError as error:
        if error.sqlite_errorcode != SQLITE_CONSTRAINT_UNIQUE:
            raise WrongState("the stored row of the task is damaged; purge it") from None
        raise KeyTaken("another live task holds the key of this one; wait for its end") from None
    for part in (VALUE, ERROR):
        if state in (State.FAILED, State.CANCELLED):
            connection.execute(SQL["drop_big"], (seq, part))
    return state


def get(connection: Connection, id: bytes, largest: int) -> TaskRow | None:
    """One task, with its value if that has no more than ``largest`` bytes."""
    row = connection.execute(SQL["get"], (largest, id)).fetchone()
    return None if row is None else shown(row)


def arguments(connection: Connection, id: bytes, largest: int) -> bytes | None:
    """The arguments of a task, if they have no more than ``largest`` bytes."""
    row = connection.execute(SQL["arguments"], (largest, id)).fetchone()
    return None if row is None else row[0]


def find(connection: Connection, wanted: Filter, after: int, limit: int) -> list[TaskRow]:
    """Tasks in the order of enqueueing."""
    query = SQL["find_running" if wanted.state is State.RUNNING else "find"]
    what = (0, after, *_filter(wanted), limit)
    return [shown(row) for row in connection.execute(query, what)]


def counts(connection: Connection, queue: str | None) -> dict[State, int]:
    """How many tasks are in each state; one that does not exist is taken for failed."""
    if queue is None:
        rows = connection.execute(SQL["counts"])
    else:
        rows = connection.execute(SQL["counts_of_queue"], (queue,))
    found = dict.fromkeys(STATES, 0)
    for number, count in rows:
        found[_state(number) or State.FAILED] += count
    return found


def queues(connection: Connection) -> list[str]:
    """Those that have live tasks, without names that sitq cannot have written."""
    names = [name for (name,) in connection.execute(SQL["queues"])]
    return sorted(name for name in names if type(name) is str and is_name(name))


def ends(
    connection: Connection, wanted: Filter, after: int
) -> list[tuple[int, Any, float | None, Any]]:
    """Ended tasks behind a number: for `sitq.backends.pruning.prunable`."""
    rows = connection.execute(SQL["ends"], (*_filter(wanted), after, most_ends()))
    return [
        (seq, change, ended if type(ended) is float and ended <= LATEST else None, fits)
        for seq, change, ended, fits in rows
    ]


def prune(connection: Connection, ends: Sequence[tuple[int, Any]]) -> int:
    """Delete ended tasks, if they have not been revived since. Returns how many."""
    deleted = connection.executemany(SQL["prune"], ends).rowcount
    for query in ("prune_big", "prune_progress"):
        connection.executemany(SQL[query], [(seq,) for seq, _ in ends])
    connection.execute(SQL["prune_groups"], (json.dumps([seq for seq, _ in ends]),))
    connection.execute(SQL["raise_pruned"])
    return deleted


def _filter(wanted: Filter) -> tuple[Any, ...]:
    state = None if wanted.state is None else NUMBERS[wanted.state]
    return state, wanted.queue, wanted.name, wanted.key

"""The verbs of the backend as plain functions of a session."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from psycopg.errors import UniqueViolation

from sitq.backends.base import Filter, Wanted
from sitq.backends.postgres.arrays import ids, numbers, texts
from sitq.backends.postgres.descent import cancel_below
from sitq.backends.postgres.driver import Session
from sitq.backends.postgres.floors import Floors
from sitq.backends.postgres.queries import Queries
from sitq.backends.postgres.wishes import Tries
from sitq.backends.pruning import most_ends
from sitq.backends.states import NUMBERS, STATES, state_of
from sitq.errors import KeyTaken, WrongState
from sitq.model import Note, ProgressRow, Reservation, State, TaskRow

__all__ = [
    "Reserve",
    "Reserved",
    "arguments",
    "cancel",
    "cancelled",
    "counts",
    "ended_among",
    "ended_in",
    "ends",
    "find",
    "get",
    "progress",
    "prune",
    "queues",
    "revive",
    "tree",
]

ABOVE_ALL = 101
"""Above every priority."""


class Reserved(NamedTuple):
    """What a worker got."""

    tasks: list[Reservation]
    due: float | None = None
    """When the next task is due, if there were fewer than wanted."""
    all_found: bool = True
    """Whether all that tries before took is among them."""


class Reserve(NamedTuple):
    """A worker's wish for tasks.

    Args:
        tries: number its tries, and name those before that may have taken something.
        floors: where to begin, while nothing has changed since; None always looks at everything.
        token: the count of changes.
    """

    sql: Queries
    worker: int
    wanted: Wanted
    tries: Tries
    floors: Floors | None
    token: int
    now: float | None

    repeatable = True

    def __call__(self, session: Session) -> Reserved:
        number, lost = self.tries.begin()
        values = self._values() | {"batch": number}
        floors = self.floors
        if floors and not lost and floors.hold(self.token):
            tasks = self._from(floors, session, values)
        else:
            tasks = self._lost_ones(session, values | {"lost": numbers(lost)}) if lost else []
        all_found = len(tasks) < self.wanted.limit
        started = time.monotonic()
        dues: list[float | None] = []
        below: int | None = ABOVE_ALL
        wanted = self.wanted._replace(
            limit=self.wanted.limit - len(tasks),
            suspect=self.wanted.suspect and not any(task.crashes for task in tasks),
        )
        while below is not None and wanted.limit > 0:
            values |= {"below": below, "limit": wanted.limit, "suspect": wanted.suspect}
            rows = session.rows(self._query, values)
            dues.append(rows[0][1])
            below = rows[0][0]
            found = [Reservation._make(row[2:]) for row in rows if row[2] is not None]
            if floors and len(found) == self.wanted.limit:
                floors.learn(_in_order(found), self.token, time.monotonic() - started)
            tasks += _in_order(found)
            wanted = wanted._replace(
                limit=wanted.limit - len(found),
                suspect=wanted.suspect and not any(task.crashes for task in found),
            )
        return Reserved(tasks, dues[0] if wanted.limit > 0 and dues else None, all_found)

    def _from(self, floors: Floors, session: Session, values: dict[str, Any]) -> list[Reservation]:
        """What stands behind the places that the last one came to."""
        values |= floors.values() | {"limit": self.wanted.limit}
        rows = session.rows(self.sql["reserve_from"], values)
        tasks = _in_order(map(Reservation._make, rows))
        floors.advance(tasks)
        return tasks

    @property
    def _query(self) -> str:
        return self.sql["reserve_all" if self.wanted.queues is None else "reserve"]

    def _lost_ones(self, session: Session, values: dict[str, Any]) -> list[Reservation]:
        """What was taken already, without an answer; up to the limit."""
        found = session.rows(self.sql["reserved"], values | {"limit": self.wanted.limit})
        return _in_order(map(Reservation._make, found))

    def _values(self) -> dict[str, Any]:
        return {
            "worker": self.worker,
            "queues": None if self.wanted.queues is None else texts(self.wanted.queues),
            "skip": texts(self.wanted.skip),
            "largest": self.wanted.largest,
            "now": self.now,
        }


def _in_order(tasks: Any) -> list[Reservation]:
    return sorted(tasks, key=lambda task: (-task.priority, task.run_at, task.seq))


def progress(session: Session, sql: Queries, worker: int, notes: Sequence[Note]) -> None:
    """Keep what runs of the worker have told."""
    seqs, fences, done, totals, words, times = zip(*notes, strict=True)
    values = {
        "worker": worker,
        "seqs": numbers(seqs),
        "fences": numbers(fences),
        "done": numbers(done),
        "totals": numbers(totals),
        "notes": texts(words),
        "times": numbers(times),
    }
    session.rows(sql["progress"], values)


def cancelled(session: Session, sql: Queries, worker: int, children: Sequence[int]) -> set[int]:
    """The tasks of a worker that are to end, and those ``children`` that it runs no longer."""
    values = {"worker": worker, "seqs": numbers(children)}
    found = session.rows(sql["cancelled"], values)
    if children:
        found += session.rows(sql["taken"], values)
    return {seq for (seq,) in found}


def cancel(session: Session, sql: Queries, id: bytes, now: float | None) -> State | None:
    """Cancel a pending task, ask the worker of a running one. Returns the state it was in."""
    session.rows(sql["lock_its_group"], {"id": id.hex()})
    found = session.row(sql["state_of"], {"id": id.hex()})
    if found is None:
        return None
    seq, number = found
    state = state_of(number)
    if state is State.PENDING:
        session.rows(sql["cancel_pending"], {"seq": seq, "now": now})
        cancel_below(session, sql, [seq], now)
    elif state is State.RUNNING:
        session.rows(sql["cancel_running"], {"seqs": numbers([seq])})
    return state


def revive(session: Session, sql: Queries, id: bytes, now: float | None) -> State | None:
    """Make a failed or cancelled task pending again. Returns the state it was in."""
    session.rows(sql["share_its_parent"], {"id": id.hex()})  # that is not to end meanwhile
    found = session.row(sql["state_of"], {"id": id.hex()})
    if found is None:
        return None
    seq, number = found
    [(is_open,)] = session.rows(sql["group_is_open"], {"seq": seq})
    if not is_open:
        raise WrongState("the group of the task has ended, and nobody would wait for it")
    try:
        session.rows(sql["revive"], {"seq": seq, "now": now})
    except UniqueViolation:
        raise KeyTaken("another live task holds the key of this one; wait for its end") from None
    return state_of(number)


def get(session: Session, sql: Queries, id: bytes, largest: int) -> TaskRow | None:
    """One task, with its value if that has no more than ``largest`` bytes."""
    row = session.row(sql["get"], {"id": id.hex(), "largest": largest or -1})
    return None if row is None else _shown(row)


def arguments(session: Session, sql: Queries, id: bytes, largest: int) -> bytes | None:
    """The arguments of a task, if they have no more than ``largest`` bytes."""
    row = session.row(sql["arguments"], {"id": id.hex(), "largest": largest})
    return None if row is None else row[0]


def find(session: Session, sql: Queries, wanted: Filter, after: int, limit: int) -> list[TaskRow]:
    """Tasks in the order of enqueueing."""
    query = sql["find_running" if wanted.state is State.RUNNING else "find"]
    values = {**_filter(wanted), "after": after, "limit": limit, "largest": -1}
    return [_shown(row) for row in session.rows(query, values)]


def tree(session: Session, sql: Queries, id: bytes, most: int) -> list[tuple[int | None, TaskRow]]:
    """A task and those below it, each with the ``seq`` of its parent; parents come first."""
    rows = session.rows(sql["tree"], {"id": id.hex(), "limit": most, "largest": -1})
    return [(parent, _shown(row)) for parent, *row in rows]


def counts(session: Session, sql: Queries, queue: str | None) -> dict[State, int]:
    """How many tasks are in each state."""
    if queue is None:
        rows = session.rows(sql["counts"])
    else:
        rows = session.rows(sql["counts_of_queue"], {"queue": queue})
    return dict.fromkeys(STATES, 0) | {state_of(number): count for number, count in rows}


def queues(session: Session, sql: Queries) -> list[str]:
    """Those that have live tasks."""
    return sorted(name for (name,) in session.rows(sql["queues"]))


def ends(
    session: Session, sql: Queries, wanted: Filter, after: int
) -> list[tuple[int, int, float | None, bool]]:
    """Ended tasks behind a number: for `sitq.backends.pruning.prunable`."""
    values = {**_filter(wanted), "after": after, "limit": most_ends()}
    return session.rows(sql["ends"], values)


def prune(session: Session, sql: Queries, ends: Sequence[tuple[int, int]]) -> int:
    """Delete ended tasks, if they have not been revived since. Returns how many."""
    seqs, changes = zip(*sorted(ends), strict=True)
    values = {"seqs": numbers(seqs), "numbers": numbers(changes)}
    deleted = session.count(sql["prune"], values)
    session.rows(sql["prune_progress"], values)
    session.rows(sql["prune_groups"], values)
    return deleted


def ended_among(session: Session, sql: Queries, waited_for: Sequence[bytes]) -> list[bytes]:
    """Which of these tasks have ended, or are gone."""
    return [id for (id,) in session.rows(sql["ended_among"], {"ids": ids(waited_for)})]


def ended_in(
    session: Session, sql: Queries, groups: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """In which of these groups children have ended since the end with this number."""
    group, after = zip(*groups, strict=True)
    return session.rows(sql["ended_in"], {"groups": numbers(group), "afters": numbers(after)})


def _shown(row: Sequence[Any]) -> TaskRow:
    *task, done, total, note, at = row
    told = None if done is None else ProgressRow(done, total, note, at)
    return TaskRow._make((*task[:4], state_of(task[4]), *task[5:], told))


def _filter(wanted: Filter) -> Mapping[str, Any]:
    return {
        **wanted._asdict(),
        "state": None if wanted.state is None else NUMBERS[wanted.state],
    }

"""Brings the ends of runs home: the changes of a whole batch in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sitq.backends.postgres.arrays import bodies, numbers
from sitq.backends.postgres.descent import cancel_below
from sitq.backends.postgres.driver import Session
from sitq.backends.postgres.queries import Queries
from sitq.backends.states import NUMBERS
from sitq.lifecycle import TERMINAL
from sitq.model import Change, State

__all__ = ["Settle", "Settled", "settle"]


class Settled(NamedTuple):
    """What became of some changes."""

    seqs: set[int]
    """Of the tasks that were changed."""
    is_all: bool = True
    """Whether every change was made, and no other: none below these."""


class Settle(NamedTuple):
    """The changes of one worker."""

    sql: Queries
    worker: int
    changes: Sequence[Change]
    now: float | None
    again: bool = False
    """They may have been made already, by one that failed."""

    repeatable = True

    def __call__(self, session: Session) -> Settled:
        session.again |= self.again
        return settle(session, self.sql, self.worker, self.changes, self.now)

    def plainly(self, session: Session) -> Settled:
        """In one statement, which is a transaction; what has a family in another one."""
        values = _values(sorted(self.changes), self.worker, State.RUNNING, self.now)
        made = set(session.at_once(lambda session: session.rows(self.sql["settle_plain"], values)))
        seqs = {seq for seq, _ in made}
        rest = [change for change in self.changes if change[:2] not in made]
        if not rest:
            return Settled(seqs)
        others = session.transaction(self._replace(changes=rest))
        return others._replace(seqs=others.seqs | seqs)


def settle(
    session: Session,
    sql: Queries,
    worker: int | None,
    changes: Sequence[Change],
    now: float | None,
    state: State = State.RUNNING,
    *,
    is_sweep: bool = False,
) -> Settled:
    """Apply changes to tasks of this worker (None: of nobody) that are in ``state``.

    What stands below a task that is over is cancelled: it ended, or begins anew by its policy. To
    be called inside a transaction.

    Args:
        is_sweep: a sweep has decided this, by the rows as they are. What a worker brings home was
            decided by its reservation, and cannot add to crashes that were forgiven since.
    """
    if not changes:
        return Settled(set())
    ordered = sorted(changes)  # all lock rows in the order of their numbers
    values = _values(ordered, worker, state, now, is_sweep=is_sweep)
    seqs = numbers(change.seq for change in ordered)
    session.rows(sql["lock_groups"], {"seqs": seqs})  # their ends are numbered in turn
    made = set(session.rows(sql["settle_all"], values))
    if session.again:
        made |= set(session.rows(sql["settled"], values))
    below = _settle_family(session, sql, [c for c in ordered if c[:2] in made], now)
    return Settled({seq for seq, _ in made}, len(made) == len(changes) and not below)


def _settle_family(
    session: Session, sql: Queries, changes: Sequence[Change], now: float | None
) -> int:
    """What the changes mean for parents and children. Returns how many of these were cancelled."""
    seqs = numbers(change.seq for change in changes)
    families = {seq for (seq,) in session.rows(sql["families"], {"seqs": seqs})}
    if not families:
        return 0
    ended = [c.seq for c in changes if c.seq in families and c.state in TERMINAL]
    if ended:
        session.rows(sql["spare_parents"], {"seqs": numbers(ended)})
    over = [c.seq for c in changes if c.seq in families and not _keeps_error(c)]
    return cancel_below(session, sql, over, now)


def _keeps_error(change: Change) -> bool:
    """A task that goes back without having failed again keeps its last error."""
    return change.error is None and change.state is State.PENDING


def _values(
    changes: Sequence[Change],
    worker: int | None,
    state: State,
    now: float | None,
    *,
    is_sweep: bool = False,
) -> dict[str, Any]:
    seq, fence, states, run_at, attempts, crashes, epoch, value, error, unknown_since = zip(
        *changes, strict=True
    )
    return {
        "seqs": numbers(seq),
        "fences": numbers(fence),
        "states": numbers(map(NUMBERS.__getitem__, states)),
        "run_at": numbers(run_at),
        "attempts": numbers(attempts),
        "crashes": numbers(crashes),
        "epochs": numbers(epoch),
        "unknown": numbers(unknown_since),
        "values": bodies(value),
        "errors": bodies(error),
        "keep": numbers(map(_keeps_error, changes)),
        "worker": worker,
        "state": NUMBERS[state],
        "is_sweep": is_sweep,
        "now": now,
    }

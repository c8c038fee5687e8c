"""Cancels what stands below a task that is over: no live child under an ended parent is ever seen.

To be called in the transaction that ends the parent. It is not asked what the tasks are doing: each
gets a new fence, so that whatever their runs bring home is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from sitq.backends.postgres.arrays import numbers
from sitq.backends.postgres.driver import Session
from sitq.backends.postgres.queries import Queries

__all__ = ["cancel_below", "cancel_trees"]


def cancel_below(session: Session, sql: Queries, seqs: Sequence[int], now: float | None) -> int:
    """Cancel all live tasks under these, at any depth. Returns how many."""
    count = 0
    while seqs:
        # What one of them enqueued before it could be cancelled is found by the next look.
        seqs = [seq for (seq,) in session.rows(sql["live_below"], {"seqs": numbers(seqs)})]
        count += _cancel(session, sql, seqs, now)
    return count


def cancel_trees(session: Session, sql: Queries, seqs: Sequence[int], now: float | None) -> None:
    """Cancel these live tasks, and all live ones under them."""
    _cancel(session, sql, seqs, now)
    cancel_below(session, sql, seqs, now)


def _cancel(session: Session, sql: Queries, seqs: Sequence[int], now: float | None) -> int:
    if not seqs:
        return 0
    values = {"seqs": numbers(sorted(seqs)), "now": now}
    session.rows(sql["lock_groups"], values)
    return session.count(sql["cancel_all"], values)

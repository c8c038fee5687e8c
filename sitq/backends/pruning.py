"""Which of the tasks that have ended are to be deleted: a bounded number, oldest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["most_ends", "prunable"]

MOST_ENDS = 5_000
"""Ended tasks that one look takes in."""
MAX_YOUNG = 100
"""Rows too young to be deleted after which no older ones are looked for: clocks may have jumped."""


def most_ends() -> int:
    """How many ended tasks a look is to bring, in the order of their ends."""
    return MOST_ENDS


def prunable(
    looked_at: Sequence[tuple[int, Any, float | None, Any]],
    ended_before: float,
    limit: int,
    after: int,
) -> tuple[list[tuple[int, Any]], int | None]:
    """Of these those that may be deleted, each with the number of its end, in the order of these.

    Args:
        looked_at: of `most_ends` ended tasks the ``seq``, the number of the end, its time in
            seconds where that can be known, and whether the task is meant.
        ended_before: later ones stay, in seconds.
        limit: so many at most.
        after: the number behind which the look began.

    Returns:
        them, and the number of the last end that was looked at; None if there are no more.
    """
    found: list[tuple[int, Any]] = []
    young = 0
    last = after
    for seq, change, ended, fits in looked_at:
        if len(found) == limit:
            return found, last
        if ended is not None and ended > ended_before:
            young += 1
        elif fits:
            found.append((seq, change))
        if young > MAX_YOUNG:
            return found, None
        last = change if type(change) is int else last
    return found, last if len(looked_at) == MOST_ENDS and last > after else None

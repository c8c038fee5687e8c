"""Where a worker's last reserve came to, for the next one to begin there.

While somebody holds an old snapshot open, rows that have been dealt with cannot be removed, and
every look for pending tasks walks past them. So where a look was slow, the next ones begin behind
what was taken, until something may have come before that place, or a second has passed, or there is
too little behind it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sitq.backends.postgres.arrays import numbers, texts
from sitq.model import Reservation

__all__ = ["Floors"]

SLOW, SLOW_EACH = 0.003, 0.00003
"""Seconds, and for each task that was found: a look that takes longer is worth avoiding."""
FRESH = 1.0
"""Seconds for which a place is remembered."""


class Floors:
    """By queue the place of the last task that a worker took, all of one priority."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[float, int]] = {}
        self._priority = 0
        self._token = -1
        self._until = 0.0

    def hold(self, token: int) -> bool:
        """Whether the places can be used, ``token`` being the count of changes now."""
        return bool(self._places) and token == self._token and time.monotonic() < self._until

    def values(self) -> dict[str, Any]:
        """The places, for the query `reserve_from`."""
        times, seqs = zip(*self._places.values(), strict=True)
        return {
            "floor_queues": texts(self._places),
            "floor_times": numbers(times),
            "floor_seqs": numbers(seqs),
            "priority": self._priority,
        }

    def learn(self, tasks: Sequence[Reservation], token: int, took: float) -> None:
        """A whole look brought these, in their order, after so many seconds."""
        self._places.clear()
        is_slow = took >= SLOW + SLOW_EACH * len(tasks)
        if is_slow and tasks and tasks[0].priority == tasks[-1].priority:
            self._token, self._until = token, time.monotonic() + FRESH
            self._priority = tasks[0].priority
            self.advance(tasks)

    def advance(self, tasks: Sequence[Reservation]) -> None:
        """These were taken from behind the places."""
        self._places.update((task.queue, (task.run_at, task.seq)) for task in tasks)

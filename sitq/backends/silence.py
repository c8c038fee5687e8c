"""Who is dead: decided by how long a worker has been silent, the same on every store.

A worker whose beat is older than two thirds of its lease becomes a suspect; a suspect that has not
beaten for another third is dead. A beat clears the mark, so a stall of the store, which delays all
beats alike, makes nobody look dead: after it everybody beats before the mark is old enough. And a
late sweep, one that had to wait itself, takes nobody, for the others may have waited as well: the
time of each suspect begins anew. But where the store is slow for good every sweep is late: whoever
stays silent through several of them had as many chances to beat, and is dead.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = ["LATE_SWEEPS", "Silences", "Verdict", "Watched"]

LATE_SWEEPS = 6
"""Through so many late sweeps of one worker in a row nobody alive stays silent."""


class Verdict(Enum):
    """What a sweep makes of another worker."""

    LIVES = "lives"
    SUSPECT = "suspect"
    DEAD = "dead"


class Watched(NamedTuple):
    """Another worker, as a sweep finds it. Times are of one clock, in seconds."""

    id: int
    lease: float
    beat: float
    """Its last one."""
    is_comparable: bool
    """Whether that is a time of the clock that runs now."""
    suspect: float | None
    """Since when it is suspected, by the clock that runs now."""


class Silences:
    """What one worker's sweeps remember: through how many late ones others were silent."""

    def __init__(self) -> None:
        self._late: dict[int, tuple[float, int]] = {}

    def judge(self, other: Watched, now: float, waited: float) -> Verdict:
        """What becomes of another worker.

        Args:
            other: the worker.
            now: the clock by which leases run, in seconds.
            waited: seconds for which the sweep had to wait for the store.
        """
        is_suspect = other.suspect is not None and other.suspect <= now
        is_comparable = other.is_comparable and other.beat <= now
        if is_suspect and waited < other.lease / 6:
            assert other.suspect is not None
            limit = other.lease / 3 if is_comparable else other.lease
            return Verdict.DEAD if now - other.suspect >= limit else Verdict.LIVES
        if is_suspect and self._late_sweeps(other) >= LATE_SWEEPS:
            return Verdict.DEAD
        if not is_comparable or now - other.beat >= other.lease * 2 / 3:
            return Verdict.SUSPECT
        return Verdict.LIVES

    def _late_sweeps(self, other: Watched) -> int:
        """Through how many late sweeps, this one counted, it has been silent."""
        before, number = self._late.get(other.id, (other.beat, 0))
        number = number + 1 if before == other.beat else 1
        self._late[other.id] = other.beat, number
        return number

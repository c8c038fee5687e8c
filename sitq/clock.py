"""Where the time comes from: the system, or a clock that a test moves."""

from __future__ import annotations

import time

__all__ = ["MICROSECOND", "Clock", "ManualClock", "step_before", "to_microsecond"]

MICROSECOND = 1e-6
"""The step of wall-clock times: the finest that every store keeps."""


def to_microsecond(seconds: float) -> float:
    """The nearest double to a whole number of microseconds: what any store gives back unchanged."""
    return round(seconds, 6)


def step_before(seconds: float) -> float:
    """The moment just before, but none before 1970."""
    return max(0.0, to_microsecond(seconds - MICROSECOND))


class Clock:
    """The system's clocks. All figures are in seconds."""

    def time(self) -> float:
        """Wall clock: seconds since 1970-01-01 UTC. Due times and deadlines are stored in it.

        It is the nearest double to a whole number of microseconds, and so is every time that is
        stored: one that is computed goes through `to_microsecond`.
        """
        return time.time_ns() // 1_000 / 1_000_000

    def monotonic(self) -> float:
        """A clock that never jumps, one for all processes of a machine: leases run by it."""
        return time.monotonic()


class ManualClock(Clock):
    """A clock that stands still until it is moved.

    Args:
        start: the first reading of the wall clock, in seconds since 1970-01-01 UTC.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._wall = to_microsecond(start)
        self._monotonic = 0.0

    def time(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass, on both clocks."""
        self._wall = to_microsecond(self._wall + seconds)
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward (or back) by ``seconds``, as an administrator would."""
        self._wall = to_microsecond(self._wall + seconds)

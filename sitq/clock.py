"""Where the time comes from: the clocks of the system."""

from __future__ import annotations

import time

__all__ = ["MICROSECOND", "Clock", "step_before", "to_microsecond"]

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

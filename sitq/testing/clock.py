"""The clock that tests move."""

from __future__ import annotations

from datetime import datetime, timedelta

from sitq import clock
from sitq.clock import to_microsecond
from sitq.errors import InvalidOption
from sitq.naming import shown
from sitq.options import check_moment, check_seconds

__all__ = ["Clock"]


class Clock(clock.Clock):
    """A clock that stands still until a test moves it.

    Give it to a backend, ``SQLiteBackend(":memory:", clock=clock)``: all that is stored runs by it,
    delays, retries, deadlines, leases. What only waits does not notice that it was moved: a worker
    looks again after its ``poll_interval``.

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

    def travel(self, to: float | timedelta | datetime) -> None:
        """Let time pass, on both clocks.

        Args:
            to: how many seconds, as a number or a timedelta; or the moment to travel to, a datetime
                with a time zone.

        Raises:
            InvalidOption: it is none of these, or leads back.
        """
        seconds = self._seconds_to(to)
        self._wall = to_microsecond(self._wall + seconds)
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward (or back) by ``seconds``, as an administrator would."""
        self._wall = to_microsecond(self._wall + seconds)

    def _seconds_to(self, to: object) -> float:
        seconds = to
        if isinstance(to, datetime):
            seconds = check_moment("travel", to).timestamp() - self._wall
        elif isinstance(to, timedelta):
            seconds = to.total_seconds()
        if isinstance(seconds, (int, float)) and seconds < 0:
            raise InvalidOption(
                f"a clock travels forward only, not to {shown(to)}; jump(seconds) sets it back"
            )
        return check_seconds("travel", seconds)

"""What is remembered between the calls of one worker."""

from __future__ import annotations

from sitq.backends.postgres.floors import Floors
from sitq.backends.postgres.wishes import Wishes
from sitq.backends.silence import Silences

__all__ = ["Memory"]


class Memory:
    """What is remembered between the calls of one worker.

    Args:
        seconds: after which a try that was not answered takes nothing any more.
    """

    def __init__(self, seconds: float) -> None:
        self.silences: Silences = Silences()
        self.wishes: Wishes = Wishes(seconds)
        self.floors: Floors = Floors()
        self.is_doubtful: bool = False
        """Whether its last settle failed: it may have been done."""

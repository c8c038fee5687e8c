"""The wishes of one worker for tasks, and those of them that were never answered.

Each try of a wish has a number, which stands in the rows that it takes. A try whose connection was
lost may have taken some, or may still do so: the server goes on with a statement although nobody
waits for it. So for some time every later wish asks for what such tries took, too.
"""

from __future__ import annotations

import time
from itertools import count
from typing import Any

from sitq.backends.commit import Operation

__all__ = ["Tries", "Wishes"]


class Tries:
    """The tries of one wish.

    Args:
        numbers: gives each its number.
        lost: tries of earlier wishes that were never answered.
    """

    def __init__(self, numbers: count[int], lost: tuple[int, ...]) -> None:
        self.lost: tuple[int, ...] = lost
        self.operation: Operation[Any, Any] | None = None
        self.made: list[int] = []
        self._numbers = numbers

    def begin(self) -> tuple[int, tuple[int, ...]]:
        """The number of another try, and those whose tasks it is to take over. On any thread."""
        before = (*self.lost, *self.made)
        self.made.append(next(self._numbers))
        return self.made[-1], before


class Wishes:
    """The wishes of a worker.

    Args:
        memory: seconds after which a try that was not answered takes nothing any more.
    """

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._numbers: count[int] = count(1)
        self._open: list[Tries] = []
        self._lost: dict[int, float] = {}
        """Until when what they took is asked for."""

    def new(self) -> Tries:
        """The tries of a new wish. What is still to be answered it leaves alone."""
        ended = [
            tries for tries in self._open if tries.operation and tries.operation.event.is_set()
        ]
        for tries in ended:
            self._open.remove(tries)
            self._lose(tries.made)
        now = time.monotonic()
        self._lost = {number: until for number, until in self._lost.items() if until > now}
        tries = Tries(self._numbers, tuple(self._lost))
        self._open.append(tries)
        return tries

    def answered(self, tries: Tries, *, all_found: bool) -> None:
        """The last try was answered; it found all that others took, or as much as it wanted."""
        if tries in self._open:
            self._open.remove(tries)
        self._lose(tries.made[:-1])
        if not all_found:
            self._lose(tries.lost)

    def _lose(self, numbers: list[int] | tuple[int, ...]) -> None:
        until = time.monotonic() + self._memory
        self._lost.update(dict.fromkeys(numbers, until))

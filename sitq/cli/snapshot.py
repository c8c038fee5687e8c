"""What `watch` knows: the store at a moment, and what has changed since the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sitq.lifecycle import TERMINAL
from sitq.model import State, Task, WorkerStatus
from sitq.queue import TaskQueue

__all__ = ["History", "Snapshot", "View", "look"]

MOST_RUNNING = 200
"""Running tasks that are read at a time."""
WINDOW = 30.0
"""Seconds over which the rate of ends is measured."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A store at a moment."""

    counts: Mapping[State, int]
    running: tuple[Task, ...]
    """Those that were started last come first."""
    workers: tuple[WorkerStatus, ...]

    @property
    def live(self) -> int:
        """How many tasks have not ended."""
        return sum(n for state, n in self.counts.items() if state not in TERMINAL)


@dataclass(frozen=True, slots=True)
class View:
    """What is to be shown."""

    at: datetime
    place: str
    snapshot: Snapshot
    rate: float | None
    """Tasks that end in a second; None while that is not known yet."""
    ended: int
    """Tasks that ended since the beginning."""
    trouble: str | None = None
    """Why there is nothing newer."""

    @property
    def share(self) -> float:
        """How much has ended of what has lived since the beginning."""
        whole = self.ended + self.snapshot.live
        return self.ended / whole if whole else 1.0


async def look(tasks: TaskQueue) -> Snapshot:
    """Look at the store."""
    counts = await tasks.counts()
    running = await tasks.find(state=State.RUNNING, limit=MOST_RUNNING)
    running.sort(key=lambda task: (task.started_at or task.enqueued_at, task.seq), reverse=True)
    return Snapshot(counts, tuple(running), tuple(await tasks.workers()))


class History:
    """How many tasks have ended, told by counts from which the purged ones are missing."""

    def __init__(self) -> None:
        self.ended: int = 0
        """Since the first counts."""
        self._last: int | None = None
        self._moments: deque[tuple[float, int]] = deque()

    def add(self, moment: float, counts: Mapping[State, int]) -> None:
        """Take the counts of a moment, in seconds of a clock that never goes back."""
        terminal = sum(counts[state] for state in TERMINAL)
        if self._last is not None:
            self.ended += max(0, terminal - self._last)  # fewer: some were purged
        self._last = terminal
        self._moments.append((moment, self.ended))
        while len(self._moments) > 2 and self._moments[1][0] <= moment - WINDOW:
            self._moments.popleft()

    @property
    def rate(self) -> float | None:
        """Tasks that end in a second."""
        if len(self._moments) < 2:
            return None
        (began, before), (ended, after) = self._moments[0], self._moments[-1]
        return (after - before) / (ended - began) if ended > began else None

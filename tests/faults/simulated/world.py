"""One life of a queue: its store, who is about, and what is to be remembered for the verdict."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import anyio
import trio

from sitq import Call, Result, SQLiteBackend, TaskHandle, TaskQueue
from sitq.model import Reservation

from .functions import End
from .journal import Entry
from .line import Line
from .loop import LoopClock, LoopDriver

__all__ = ["CRASH_LIMIT", "LEASE", "UNKNOWN_AFTER", "World"]

LEASE = 9.0
CRASH_LIMIT = 2
UNKNOWN_AFTER = 20.0
NEVER = 100_000.0


@dataclass
class Run:
    """A run that began, and how it ended; None if it has not, or its worker is no more."""

    has_limit: bool
    end: End | None = None


@dataclass
class World:
    """Everything about one life."""

    rng: random.Random
    clock: LoopClock = field(default_factory=LoopClock)
    lines: list[Line] = field(default_factory=list[Line])
    trace: list[str] = field(default_factory=list[str])
    broken: list[str] = field(default_factory=list[str])
    handles: list[TaskHandle[Any]] = field(default_factory=list[TaskHandle[Any]])
    answers: list[Result] = field(default_factory=list[Result])
    """What those heard who waited for a result."""
    journal: list[Entry] = field(default_factory=list[Entry])
    parents: dict[int, int] = field(default_factory=dict[int, int])
    """Which task opened each group."""
    runs: dict[tuple[int, int], Run] = field(default_factory=dict[tuple[int, int], "Run"])
    """Every run that began, by task and fence."""
    revived: Counter[bytes] = field(default_factory=Counter[bytes])
    values: int = 0
    meeting: int = 0

    def __post_init__(self) -> None:
        self.is_lossy = self.rng.random() < 0.5
        # Where no answer is lost no wake is: to poll is never needed.
        self.poll_interval = self.rng.choice((2.0, 20.0)) if self.is_lossy else NEVER
        self.backend = SQLiteBackend(":memory:", clock=self.clock)
        self.gate = anyio.Event()
        self.evening = anyio.Event()
        self.all_met = anyio.Event()
        self.line = self.new_line("caller")
        self.queue = TaskQueue(self.line)  # type: ignore[arg-type]
        self.pace = LoopDriver.pace

    def new_line(self, name: str) -> Line:
        line = Line(self.backend, name, self.note, random.Random(self.rng.random()))
        self.lines.append(line)
        return line

    def note(self, *what: object) -> None:
        self.trace.append(" ".join(map(str, (f"{trio.current_time():.6f}", *what))))

    def demand(self, holds: bool, broken: str) -> None:
        """Remember a broken promise: where it is noticed an error would be taken for a task's."""
        if not holds:
            self.note("BROKEN:", broken)
            self.broken.append(broken)

    def value(self) -> int:
        """A result that no other run has."""
        self.values += 1
        return self.values

    def began(self, task: Reservation, attempt: int) -> None:
        self.note("run", f"{task.seq}.{task.fence}", task.name, "attempt", attempt)
        one = task.seq, task.fence
        self.demand(one not in self.runs, f"two runs of task {task.seq} have fence {task.fence}")
        self.runs[one] = Run(task.timeout is not None or task.deadline is not None)

    def ended(self, task: Reservation, how: End) -> None:
        self.runs[task.seq, task.fence].end = how

    async def met(self, number: int) -> None:
        self.meeting += 1
        if self.meeting == number:
            self.all_met.set()
        await self.all_met.wait()

    async def enqueue(self, *calls: Call[Any]) -> list[TaskHandle[Any]]:
        """Enqueue calls, all or none. Who enqueues may be cancelled, or hear nothing."""
        handles = await self.queue.enqueue_many(calls)
        self.handles += handles
        return handles

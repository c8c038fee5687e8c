"""One run of a worker from its start to its stop: its lease, its slots, and what it holds."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio import CancelScope, CapacityLimiter

from sitq.backends.base import Backend
from sitq.backends.loop import Loop
from sitq.errors import StoreError
from sitq.lease import record
from sitq.model import Note, Outcome, OutcomeKind, Reservation, WorkerRecord
from sitq.registry import Registry
from sitq.serialization import Serializer
from sitq.worker.processes import Processes
from sitq.worker.run import Cause, Run

__all__ = ["Options", "Shift", "Stop", "log_event", "logger"]

logger: logging.Logger = logging.getLogger("sitq.worker")


@dataclass(frozen=True, slots=True)
class Options:
    """What a worker was told. Times are in seconds."""

    queues: tuple[str, ...] | None
    max_concurrency: int
    poll_interval: float
    grace: float
    lease: float
    crash_limit: int
    retention: float | None
    unknown_after: float

    def record(self) -> WorkerRecord:
        """What the other workers may know."""
        return record(self.lease, self.queues, self.max_concurrency)


class Stop:
    """A request to stop, and until when running tasks may go on. Later requests only shorten it."""

    def __init__(self) -> None:
        self.cause: Cause | None = None
        self.signal: int | None = None
        """The signal after which nothing is waited for any more."""
        self._until = math.inf
        self._scopes: set[CancelScope] = set()
        self._grace: CancelScope | None = None

    def request(self, cause: Cause, grace: float) -> None:
        """Stop: running tasks get ``grace`` seconds from now."""
        if self.cause is None or cause is Cause.HOST_CANCELLED:
            self.cause = cause
        self._until = min(self._until, anyio.current_time() + grace)
        if self._grace is not None:
            self._grace.deadline = self._until
        self.interrupt()

    def hurry(self, signal: int) -> None:
        """Stop at once: no grace, and no waiting for what cannot be cancelled."""
        self.signal = signal
        self.request(Cause.SHUTDOWN, 0.0)

    def interrupt(self) -> None:
        """End the waits that are `interruptible`."""
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def interruptible(self) -> Generator[CancelScope]:
        """A wait in this block ends when the worker is to stop."""
        with CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    @contextmanager
    def grace(self) -> Generator[None]:
        """The block ends with the grace."""
        with CancelScope(deadline=self._until) as self._grace:
            yield


@dataclass(slots=True, eq=False)
class Shift:
    """What the parts of a running worker share.

    ``held`` is everything that was reserved and is not settled yet: nothing leaves it but by a
    settle that was done, or by a lease that was lost.
    """

    backend: Backend
    registry: Registry
    serializer: Serializer
    options: Options
    worker: int
    stop: Stop
    loop: Loop
    resources: Any
    processes: Processes
    slots: CapacityLimiter = field(init=False)
    threads: CapacityLimiter = field(init=False)
    held: dict[int, Run] = field(default_factory=dict[int, Run])
    fresh: list[Run] = field(default_factory=list[Run])
    """Reserved, not yet started."""
    ended: dict[Run, None] = field(default_factory=dict[Run, None])
    """Ended, not yet settled."""
    told: dict[Run, Note] = field(default_factory=dict[Run, Note])
    """What runs have told of their progress and nobody has taken to write: the newest of each."""
    telling: dict[Run, Note] = field(default_factory=dict[Run, Note])
    """What is just being written of that."""
    is_told: bool = False
    """Whether `something_told` is set, or about to be."""
    something_told: anyio.Event = field(default_factory=anyio.Event)
    unknown: set[str] = field(default_factory=set[str])
    rng: random.Random = field(default_factory=random.Random)
    running: int = 0
    something_ended: anyio.Event = field(default_factory=anyio.Event)
    nothing_runs: anyio.Event = field(default_factory=anyio.Event)
    closed: bool = False
    """Nothing runs any more; what has ended is still settled."""
    all_settled: anyio.Event = field(default_factory=anyio.Event)
    lease_lost: bool = False
    waiting: CancelScope | None = None
    """The wait for work, if that is waited for."""
    is_closing: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self.renew()
        # A second bound could deadlock functions that wait for each other: the slot is the bound.
        self.threads = CapacityLimiter(math.inf)

    def renew(self) -> None:
        """Begin with every slot free: for a task group that is opened, when nothing runs."""
        self.slots = CapacityLimiter(self.options.max_concurrency)
        self.fresh.clear()
        self.running = 0

    def receive(self, tasks: list[Reservation]) -> None:
        """What was reserved is held from here on, whoever asked for it."""
        is_stopping = self.is_stopping()
        for task in tasks:
            run = Run(task, self.registry.get(task.name), self.loop.scope(), self)
            self.held[task.seq] = run
            if is_stopping:  # nothing is started any more
                kind = OutcomeKind.LOST if self.lease_lost else OutcomeKind.RELEASED
                run.outcome = Outcome(kind)
                self.end(run)
            else:
                self.fresh.append(run)

    def end(self, run: Run) -> None:
        """A run has its outcome: it waits to be settled."""
        self.ended[run] = None
        if len(self.ended) == 1:
            self.something_ended.set()

    def let_go(self, run: Run) -> None:
        """A run was settled. The same task may be held already for another run."""
        self.ended.pop(run, None)
        if self.held.get(run.task.seq) is run:
            del self.held[run.task.seq]
        if run.task.crashes and self.waiting is not None:
            self.waiting.cancel()  # another suspect may come now

    async def now(self) -> float:
        """The store's wall clock, or what is known of it here while the store cannot be asked."""
        try:
            return await self.backend.now()
        except StoreError:
            return self.backend.clock.time()

    @property
    def place(self) -> str:
        """Names the store."""
        return self.backend.place

    def rests(self, run: Run) -> None:
        """A run only waits from now on: it needs no grace, and no longer is a suspect here."""
        if self.stop.cause is not None and run.outcome is None:
            run.stop(self.stop.cause)
        if run.task.crashes and self.waiting is not None:
            self.waiting.cancel()

    def tells(self, run: Run, done: float, total: float | None, note: str) -> None:
        """A run tells of its progress. From any thread; it is written in a moment."""
        task, now = run.task, self.backend.clock.time()
        self.told[run] = Note(task.seq, task.fence, done, total, note, now)
        if not self.is_told:
            self.is_told = True
            self.loop.call(self.hear)

    def hear(self) -> None:
        """Something was told."""
        self.is_told = True
        self.something_told.set()

    def stop_resting(self, cause: Cause) -> None:
        """Runs that only wait go back at once: others can wait in their place."""
        for run in tuple(self.held.values()):
            if run.waits and run.outcome is None:
                run.stop(cause)

    def stop_runs(self, cause: Cause) -> None:
        """Cancel every run that has not ended."""
        for run in tuple(self.held.values()):
            if run.outcome is None:
                run.stop(cause)

    def is_stopping(self) -> bool:
        """Whether nothing is to be reserved any more."""
        return self.lease_lost or self.stop.cause is not None

    async def all_ended(self) -> None:
        """Wait until no task runs."""
        while self.running:
            self.nothing_runs = anyio.Event()
            await self.nothing_runs.wait()

    def count_stuck(self) -> int:
        """How many runs do not end although they were told to. Each is reported once."""
        for run in self.held.values():
            if run.becomes_stuck(self.options.grace):
                self.log(
                    logging.ERROR,
                    "stuck: the run does not end, although it was told to",
                    task=run.task.id.hex(),
                    name=run.task.name,
                    cause=run.cause or Cause.TIMEOUT,
                )
        return sum(run.stuck and run.outcome is None for run in self.held.values())

    def children(self) -> list[int]:
        """The tasks of groups that run here: they may be cancelled together with their parents."""
        held = self.held.values()
        return [r.task.seq for r in held if r.task.group is not None and r.outcome is None]

    def give_back(self) -> None:
        """What is held without an outcome goes back; for when its run can end no more."""
        for run in self.held.values():
            if run.outcome is None:
                run.outcome = Outcome(OutcomeKind.RELEASED)
            self.end(run)

    def lose_lease(self) -> None:
        """Our tasks were given to others: end them here, and settle none."""
        if not self.lease_lost:
            self.lease_lost = True
            self.log(logging.ERROR, "lease lost: its tasks were given back", held=len(self.held))
            self.stop.interrupt()
            self.stop_runs(Cause.LEASE_LOST)

    def holds_suspect(self) -> bool:
        """Whether a task runs under which a worker died."""
        return any(run.task.crashes and not run.waits for run in self.held.values())

    def log(self, level: int, event: str, **details: Any) -> None:
        """One event, with what it is about; never arguments or results of tasks."""
        log_event(level, event, worker=self.worker, **details)


def log_event(level: int, event: str, **details: Any) -> None:
    """Write one event to the log ``sitq.worker``: a sentence, then ``name=value`` pairs."""
    if logger.isEnabledFor(level):
        pairs = " ".join(f"{name}={value!s}" for name, value in details.items())
        logger.log(level, "%s %s", event, pairs.encode("unicode_escape").decode("ascii"))

"""Checks of what is stored: workers and tasks, on any store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from sitq.cli.doctor.findings import Check, Finding, ok, problem, warning
from sitq.cli.records import is_lapsed, place
from sitq.cli.text import span
from sitq.model import WorkerStatus

__all__ = ["CHECKS", "Due", "Stored", "Unknown"]

L = TypeVar("L")

LONG_DUE = 60.0
"""Seconds for which tasks may wait while no worker serves their queue."""
LONG_BACKLOG = 3_600.0
"""Seconds for which they may wait while one does."""
LONG_LAG = 1.0
"""Seconds that an event loop may take to answer."""
AHEAD = 2.0
"""Seconds by which what has been may lie in the future."""
LONG_AGO = 1_735_689_600.0
"""The beginning of 2025: no clock that is right says less."""
MOST = 20
"""Findings of one kind."""


class Due(NamedTuple):
    """The tasks of a queue that could be running."""

    queue: str
    number: int
    since: float
    """When the oldest of them was due."""


class Unknown(NamedTuple):
    """The pending tasks of a function that a worker met and did not know."""

    name: str
    number: int
    since: float


class Stored(Protocol):
    """What is in a store."""

    def now(self) -> float:
        """What time it is for the store."""
        ...

    def workers(self) -> Sequence[WorkerStatus]:
        """Those that have a lease."""
        ...

    def due(self, now: float) -> Sequence[Due]:
        """Pending tasks, by queue."""
        ...

    def unknown(self) -> Sequence[Unknown]:
        """Pending tasks that nobody knows, by function."""
        ...

    def orphans(self) -> int:
        """Running tasks of workers that have no lease."""
        ...

    def latest(self) -> float | None:
        """When the newest tasks were enqueued, at the latest."""
        ...


def workers(store: Stored) -> Iterator[Finding]:
    """Whether those that have a lease are alive."""
    found = store.workers()
    living = [worker for worker in found if not is_lapsed(worker)]
    yield ok("workers", f"{len(living)} alive")
    for worker in _some(worker for worker in found if is_lapsed(worker)):
        silent = "since this machine started" if worker.silent is None else _for(worker.silent)
        yield problem(
            "workers",
            f"worker {worker.id} ({place(worker)}) is silent {silent}, and holds "
            f"{worker.held} tasks",
            "they go back when another worker has seen that it is dead; start one, or end a "
            "process that stands still",
        )
    orphans = store.orphans()
    if orphans:
        yield problem(
            "workers",
            f"{orphans} running tasks are of workers that have no lease",
            "they go back at the next sweep of a worker: start one",
        )


def stuck_runs(store: Stored) -> Iterator[Finding]:
    """Runs that do not end although they were told to, and loops that do not answer."""
    for worker in _some(worker for worker in store.workers() if worker.stuck):
        yield warning(
            "stuck runs",
            f"{worker.stuck} runs of worker {worker.id} ({place(worker)}) do not end although "
            "they were told to",
            "restart the worker, and let its functions give way to cancellation",
        )


def lag(store: Stored) -> Iterator[Finding]:
    """Event loops that answer late."""
    for worker in _some(w for w in store.workers() if w.lag is not None and w.lag > LONG_LAG):
        yield warning(
            "lag",
            f"the event loop of worker {worker.id} ({place(worker)}) took {span(worker.lag or 0)} "
            "to answer",
            "a function blocks it: make that a plain function, or give it to a thread",
        )


def waiting_tasks(store: Stored) -> Iterator[Finding]:
    """Tasks that are due and are not run."""
    now = store.now()
    living = [worker for worker in store.workers() if not is_lapsed(worker)]
    due = store.due(now)
    yield ok("waiting tasks", f"{sum(one.number for one in due)} are due")
    for one in _some(one for one in due if not _is_served(one.queue, living)):
        what = f"no worker serves queue {one.queue}: {_waiting(one, now)}"
        finding = problem if now - one.since > LONG_DUE else warning
        yield finding("waiting tasks", what, "start a worker for it, or correct the queue's name")
    for one in _some(one for one in due if _is_served(one.queue, living)):
        if now - one.since > LONG_BACKLOG:
            yield warning(
                "waiting tasks",
                f"queue {one.queue} is behind: {_waiting(one, now)}",
                "give it more workers, or a larger max_concurrency",
            )


def unknown_functions(store: Stored) -> Iterator[Finding]:
    """Tasks whose function no worker knows."""
    now = store.now()
    for one in _some(store.unknown()):
        yield warning(
            "unknown functions",
            f"no worker knows {one.name}, of {one.number} pending tasks, {_for(now - one.since)}",
            "let a worker import the module that registers it; they fail after unknown_after",
        )


def clock(store: Stored) -> Iterator[Finding]:
    """Whether the clock agrees with what is stored."""
    now = store.now()
    been = [store.latest() or now, *(w.started_at.timestamp() for w in store.workers())]
    ahead = max(been) - now
    if now < LONG_AGO:
        yield problem("clock", "it says that this is the past", "set it, and use NTP")
    elif ahead > AHEAD:
        yield warning(
            "clock",
            f"something was stored {span(ahead)} in the future",
            "the clock was set back, or machines disagree: use NTP",
        )
    else:
        yield ok("clock", "agrees with what is stored")


def _is_served(queue: str, living: Iterable[WorkerStatus]) -> bool:
    return any(worker.queues is None or queue in worker.queues for worker in living)


def _waiting(one: Due, now: float) -> str:
    return f"{one.number} tasks are due, the oldest {_for(now - one.since)}"


def _for(length: float) -> str:
    return f"for {span(length)}"


def _some(found: Iterable[L]) -> Sequence[L]:
    return [*found][:MOST]


CHECKS: Sequence[Check[Stored]] = (
    workers,
    waiting_tasks,
    unknown_functions,
    stuck_runs,
    lag,
    clock,
)

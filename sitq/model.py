"""The records that travel between the floors: frozen, without behaviour.

Records made once a task on the hot path are named tuples, which are built in C; those that users
read are frozen dataclasses with time zone aware datetimes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

__all__ = [
    "Change",
    "ChildEnd",
    "ErrorInfo",
    "Group",
    "NewChild",
    "NewGroup",
    "NewTask",
    "Note",
    "Outcome",
    "OutcomeKind",
    "Progress",
    "ProgressRow",
    "Reservation",
    "Result",
    "State",
    "Task",
    "TaskRow",
    "TaskTree",
    "WorkerRecord",
    "WorkerRow",
    "WorkerStatus",
]


class State(StrEnum):
    """Where a task stands. ``succeeded``, ``failed`` and ``cancelled`` are terminal."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class OutcomeKind(StrEnum):
    """How one run ended, which is not yet how the task ends: a failed run may be retried."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    CANCELLED = "cancelled"
    RELEASED = "released"
    LOST = "lost"


class Outcome(NamedTuple):
    """How one run ended."""

    kind: OutcomeKind
    value: bytes | None = None
    """The packed return value of a run that succeeded."""
    error: bytes | None = None
    """The packed `ErrorInfo` of a run that failed or timed out."""
    types: frozenset[str] = frozenset()
    """Names of the exception's classes, for the rules of the retry policy."""
    final: bool = False
    """No retry, whatever the policy says: the deadline passed, or the result cannot be stored."""
    unknown: bool = False
    """Released because this worker does not know the function."""


class NewTask(NamedTuple):
    """A call, packed and checked, as a backend takes it. Times are seconds since 1970 UTC."""

    id: bytes
    name: str
    queue: str
    priority: int
    run_at: float
    key: str | None
    timeout: float | None
    deadline: float | None
    retry: bytes | None
    arguments: bytes
    enqueued: float


class WorkerRecord(NamedTuple):
    """What a worker tells the others of itself; or a program, which serves no queues."""

    host: str
    pid: int
    queues: tuple[str, ...] | None
    concurrency: int
    lease: float
    """Seconds without a beat after which its tasks go back."""


class NewGroup(NamedTuple):
    """A group to be opened: by a run of a task, or by a program that has a lease for it."""

    parent: int | None
    """The ``seq`` of the task."""
    fence: int = 0
    epoch: int = 0
    ordinal: int | None = None
    """How many groups the run has opened before."""
    owner: int | WorkerRecord | None = None
    """The lease of the program, or what it tells of itself to get one."""
    detach: bool = False
    """Whether the children outlive the program."""
    deadline: float | None = None


class Group(NamedTuple):
    """An open group. ``fence`` names the run that opened it."""

    id: int
    parent: int | None
    fence: int
    generation: int
    """Children of earlier ones that did not succeed are replaced, and do not count."""
    owner: int | None
    deadline: float | None


class NewChild(NamedTuple):
    """A call to be a child of a group."""

    task: NewTask
    child: str
    """What tells it from the other children when its parent runs again."""
    digest: bytes
    """Of what it calls."""


class ChildEnd(NamedTuple):
    """A child that has ended."""

    number: int
    """In the order of the ends."""
    id: bytes
    child: str
    state: State
    value: bytes | None


class Reservation(NamedTuple):
    """A task as its worker holds it. ``fence`` names this reservation in every write about it."""

    seq: int
    id: bytes
    name: str
    queue: str
    priority: int
    fence: int
    attempts: int
    crashes: int
    epoch: int
    run_at: float
    timeout: float | None
    deadline: float | None
    retry: bytes | None
    arguments: bytes | None
    """None if the store cannot give them: they are missing, or too large."""
    enqueued: float
    unknown_since: float | None
    group: int | None = None
    """The number of the group that it is a child of."""


class Change(NamedTuple):
    """A decided write about one run: what its row becomes."""

    seq: int
    fence: int
    state: State
    run_at: float
    attempts: int
    crashes: int
    epoch: int
    value: bytes | None = None
    error: bytes | None = None
    unknown_since: float | None = None


class Note(NamedTuple):
    """What a run has told of its progress."""

    seq: int
    fence: int
    done: float
    total: float | None
    note: str
    at: float
    """When it did, by the clock of the store."""


class ProgressRow(NamedTuple):
    """What a task has told last of its progress, as a backend reads it."""

    done: float
    total: float | None
    note: str
    at: float


class TaskRow(NamedTuple):
    """A task as a backend reads it: packed, times in seconds since 1970 UTC."""

    seq: int
    id: bytes
    name: str
    queue: str
    state: State
    priority: int
    key: str | None
    attempts: int
    crashes: int
    cancel_requested: bool
    enqueued: float
    run_at: float
    deadline: float | None
    started: float | None
    ended: float | None
    value: bytes | None
    """None also if the store cannot give it: it is missing, or too large."""
    error: bytes | None
    progress: ProgressRow | None = None
    """None also if what is stored cannot have been told."""


class WorkerRow(NamedTuple):
    """A worker as a backend reads it."""

    id: int
    host: str
    pid: int
    queues: tuple[str, ...] | None
    concurrency: int
    lease: float
    started: float
    silent: float | None
    """Seconds since its last beat; None when that was before this machine started."""
    stuck: int
    lag: float | None
    held: int


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """An exception as data: text, bounded, never rebuilt into a class."""

    type: str
    """The qualified name of the exception's class, such as ``builtins.ValueError``."""
    message: str
    traceback: str = ""
    notes: tuple[str, ...] = ()
    cause: ErrorInfo | None = None
    """What it was raised from, or was handling when it was raised."""
    members: tuple[ErrorInfo, ...] = ()
    """The exceptions in an exception group."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run was when it told of it."""

    done: float
    """From 0, in units of the function's own."""
    total: float | None
    """What ``done`` is to become, above 0; None if the function did not say."""
    note: str
    """What it said of it; empty if nothing."""
    at: datetime


@dataclass(frozen=True, slots=True)
class Task:
    """One durable call of a task function, as the store has it now."""

    id: UUID
    seq: int
    """The order of enqueueing in this store; ``find(after=...)`` takes it."""
    name: str
    queue: str
    state: State
    priority: int
    key: str | None
    attempts: int
    """Runs that ended by failure or timeout."""
    crashes: int
    """Workers that died under the task since its last success of any kind."""
    cancel_requested: bool
    enqueued_at: datetime
    run_at: datetime
    """Not before this moment."""
    deadline: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    error: ErrorInfo | None
    """Why the last attempt failed, also while a retry is pending."""
    progress: Progress | None = None
    """What a run of it told last with ``current_task().progress()``; it stays when the run ends."""


@dataclass(frozen=True, slots=True)
class TaskTree:
    """A task, and the tasks that it enqueued in its groups."""

    task: Task
    children: tuple[TaskTree, ...]
    """In the order of enqueueing; also those of earlier epochs that failed and were replaced."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a task ended. ``state`` is ``succeeded``, ``failed`` or ``cancelled``."""

    id: UUID
    name: str
    queue: str
    state: State
    value: Any
    """What the function returned; None unless the task succeeded."""
    error: ErrorInfo | None
    attempts: int
    enqueued_at: datetime
    started_at: datetime | None
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker that has a lease, as the store knows it now."""

    id: int
    """New at each start, and after a lease was lost."""
    host: str
    pid: int
    queues: tuple[str, ...] | None
    """The queues that it serves; None means all."""
    concurrency: int
    lease: float
    """Seconds without a beat after which its tasks go back."""
    started_at: datetime
    silent: float | None
    """Seconds since its last beat; None when that was before this machine started."""
    stuck: int
    """Tasks that do not end although they were told to, ``grace`` seconds ago or more."""
    lag: float | None
    """Seconds that its event loop took to answer when it beat last: what blocks the loop lets it
    grow. None before the first beat, and in memory, where there is no heartbeat."""
    held: int
    """Tasks that it holds now: those that run, and those that it has not settled yet."""

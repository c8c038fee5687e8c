"""What tables say of a task, and of a worker. Pure: what time it is comes from outside."""

from __future__ import annotations

from datetime import datetime

from sitq.cli.text import ago, bar, cut, number, span
from sitq.model import Progress, State, Task, WorkerStatus

__all__ = [
    "TASK",
    "TASK_OPTIONAL",
    "WORKER",
    "WORKER_OPTIONAL",
    "is_lapsed",
    "place",
    "progress",
    "task_row",
    "when",
    "worker_row",
]

TASK = ("seq", "id", "name", "queue", "state", "when", "attempts", "progress")
"""The columns of `task_row`."""
TASK_OPTIONAL = ("attempts", "seq", "queue", "progress")
WORKER = ("id", "place", "queues", "held", "beat", "lag", "stuck", "started")
"""The columns of `worker_row`."""
WORKER_OPTIONAL = ("started", "lag", "queues")
NOTE = 60
"""Characters of a note that a table shows."""


def task_row(task: Task, now: datetime) -> tuple[object, ...]:
    """The cells of a task."""
    told, since = progress(task.progress), when(task, now)
    return task.seq, task.id, task.name, task.queue, task.state, since, task.attempts, told


def when(task: Task, now: datetime) -> str:
    """What there is to say of a task's time in its state."""
    if task.state is State.PENDING:
        due = (task.run_at - now).total_seconds()
        return f"due in {span(due)}" if due > 0 else f"due for {span(-due)}"
    if task.state is State.RUNNING:
        started = task.started_at or now
        told = ", to be cancelled" if task.cancel_requested else ""
        return f"for {span((now - started).total_seconds())}{told}"
    return ago(task.ended_at, now)


def progress(told: Progress | None, width: int = 10) -> str | None:
    """How far a run says that it has come: a bar where the whole is known, and its note."""
    if told is None:
        return None
    note = f" {cut(told.note, NOTE)}" if told.note else ""
    if told.total is None:
        return f"{number(told.done)}{note}"
    return f"{bar(told.done / told.total, width)}{note}"


def place(worker: WorkerStatus) -> str:
    """Its machine and process."""
    return f"{cut(worker.host, 80)}:{worker.pid}"


def is_lapsed(worker: WorkerStatus) -> bool:
    """Whether it has been silent for as long as its lease: its tasks are about to go back."""
    return worker.silent is None or worker.silent >= worker.lease


def worker_row(worker: WorkerStatus, now: datetime) -> tuple[object, ...]:
    """The cells of a worker."""
    beat = "before the machine started" if worker.silent is None else f"{span(worker.silent)} ago"
    return (
        worker.id,
        place(worker),
        "(all)" if worker.queues is None else cut(", ".join(worker.queues), 200),
        f"{worker.held}/{worker.concurrency}",
        f"{beat}, lapsed" if is_lapsed(worker) else beat,
        None if worker.lag is None else span(worker.lag),
        worker.stuck,
        ago(worker.started_at, now),
    )

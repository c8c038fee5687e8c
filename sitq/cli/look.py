"""The commands that look at what is stored and change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer

from sitq.cli.output import print_json, print_table
from sitq.cli.records import TASK, TASK_OPTIONAL, WORKER, WORKER_OPTIONAL, task_row, worker_row
from sitq.cli.store import AsJson, BackendName, on_queue
from sitq.cli.text import span
from sitq.model import State, Task
from sitq.queue import TaskQueue

__all__ = ["OfName", "OfQueue", "OfState", "add_to"]

OfState = Annotated[State | None, typer.Option("--state", help="Only tasks in this state.")]
OfQueue = Annotated[str | None, typer.Option("--queue", help="Only tasks of this queue.")]
OfName = Annotated[str | None, typer.Option("--name", help="Only tasks of this function.")]
"""What chooses tasks."""

OLDEST = 100
"""Tasks of a queue among which the one that has been due for longest is looked for."""


def add_to(app: typer.Typer) -> None:
    """Give the application these commands."""
    app.command("ls")(list_tasks)
    app.command()(stats)
    app.command()(workers)


def list_tasks(
    *,
    state: OfState = None,
    queue: OfQueue = None,
    name: OfName = None,
    key: Annotated[str | None, typer.Option(help="Only tasks with this key.")] = None,
    after: Annotated[int, typer.Option(help="Go on behind the task with this number.")] = 0,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=10_000)] = 100,
    backend: BackendName = None,
    json: AsJson = False,
) -> None:
    """List tasks, in the order of enqueueing."""

    async def find(tasks: TaskQueue) -> list[Task]:
        return await tasks.find(
            state=state, queue=queue, name=name, key=key, after=after, limit=limit
        )

    found = on_queue(backend, find)
    if json:
        for task in found:
            print_json(task)
        return
    now = datetime.now(UTC)
    print_table(TASK, [task_row(task, now) for task in found], optional=TASK_OPTIONAL)


@dataclass(frozen=True, slots=True)
class QueueStats:
    """The numbers of one queue, or of all."""

    queue: str | None
    """None stands for all."""
    counts: Mapping[State, int]
    due: float | None
    """Seconds for which its oldest pending task has been due; None if none is."""


def stats(
    *,
    queue: Annotated[str | None, typer.Option(help="Only this queue.")] = None,
    backend: BackendName = None,
    json: AsJson = False,
) -> None:
    """Count tasks: of each queue that has pending or running ones, and of all.

    It counts the whole history.
    """
    found = on_queue(backend, lambda tasks: _stats(tasks, queue))
    if json:
        for one in found:
            print_json(one)
        return
    print_table(
        ("queue", *State, "oldest due"),
        [
            (
                "(all)" if one.queue is None else one.queue,
                *(one.counts[state] for state in State),
                None if one.due is None else span(one.due),
            )
            for one in found
        ],
    )


async def _stats(tasks: TaskQueue, queue: str | None) -> list[QueueStats]:
    names = await tasks.queues() if queue is None else [queue]
    found = [QueueStats(name, await tasks.counts(name), await _due(tasks, name)) for name in names]
    if queue is None:
        longest = max((one.due for one in found if one.due is not None), default=None)
        found.append(QueueStats(None, await tasks.counts(), longest))
    return found


async def _due(tasks: TaskQueue, queue: str) -> float | None:
    """Seconds since the oldest of its pending tasks was due."""
    first = await tasks.find(state=State.PENDING, queue=queue, limit=OLDEST)
    longest = max((_overdue(task) for task in first), default=-1.0)
    return longest if longest >= 0 else None


def _overdue(task: Task) -> float:
    return (datetime.now(UTC) - task.run_at).total_seconds()


def workers(*, backend: BackendName = None, json: AsJson = False) -> None:
    """List the workers that have a lease."""
    found = on_queue(backend, lambda tasks: tasks.workers())
    if json:
        for worker in found:
            print_json(worker)
        return
    now = datetime.now(UTC)
    print_table(WORKER, [worker_row(one, now) for one in found], optional=WORKER_OPTIONAL)

"""The commands that look at what is stored and change nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from sitq.cli.output import print_json, print_table
from sitq.cli.store import AsJson, BackendName, on_queue
from sitq.cli.text import ago
from sitq.model import State, Task
from sitq.queue import TaskQueue

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Give the application these commands."""
    app.command("ls")(list_tasks)


def list_tasks(
    *,
    state: Annotated[State | None, typer.Option(help="Only tasks in this state.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only tasks of this queue.")] = None,
    name: Annotated[str | None, typer.Option(help="Only tasks of this function.")] = None,
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
    print_table(
        ("seq", "id", "name", "queue", "state", "attempts", "enqueued"),
        [(t.seq, t.id, t.name, t.queue, t.state, t.attempts, ago(t.enqueued_at)) for t in found],
    )

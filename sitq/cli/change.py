"""The commands that change what is stored: cancel, retry, purge."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

import typer

from sitq.cli.look import OfName, OfQueue, OfState
from sitq.cli.output import complain, print_json, print_line
from sitq.cli.store import FAILED, AsJson, BackendName, on_queue
from sitq.cli.text import seconds
from sitq.errors import TaskNotFound, UsageError
from sitq.model import State, Task
from sitq.queue import TaskQueue

__all__ = ["add_to"]

PAGE = 500
"""Tasks that are looked for at a time."""

IDS = typer.Argument(metavar="ID...", help="Of tasks.", show_default=False)


def add_to(app: typer.Typer) -> None:
    """Give the application these commands."""
    app.command()(cancel)
    app.command()(retry)
    app.command()(purge)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a wish about one task."""

    id: UUID
    done: bool
    what: str


def cancel(
    ids: Annotated[list[UUID], IDS], *, backend: BackendName = None, json: AsJson = False
) -> None:
    """Cancel tasks. One that runs is told to end; it ends cancelled, or finished."""

    async def one(tasks: TaskQueue, id: UUID) -> str:
        if await tasks.cancel(id):
            return "cancelled, or told to end"
        raise UsageError(f"task {id} had ended before")

    _end(on_queue(backend, lambda tasks: _each(tasks, ids, one, json=json)))


def retry(
    ids: Annotated[list[UUID] | None, IDS] = None,
    *,
    state: OfState = None,
    queue: OfQueue = None,
    name: OfName = None,
    limit: Annotated[int, typer.Option(help="How many, with --state.", min=1, max=100_000)] = 1_000,
    backend: BackendName = None,
    json: AsJson = False,
) -> None:
    """Make failed or cancelled tasks pending again, with all their attempts before them.

    Name them, or choose them: --state failed, with --queue and --name if you like.
    """
    if bool(ids) == bool(state) or ((queue or name) and not state):
        raise typer.BadParameter("name tasks, or choose them with --state failed or cancelled")
    if state not in (None, State.FAILED, State.CANCELLED):
        raise typer.BadParameter(
            f"only failed and cancelled tasks can be retried, not {state} ones"
        )

    async def work(tasks: TaskQueue) -> bool:
        chosen = ids or await _chosen(tasks, state, queue, name, limit)
        return await _each(tasks, chosen, one, json=json)

    async def one(tasks: TaskQueue, id: UUID) -> str:
        await tasks.retry(id)
        return "pending again"

    _end(on_queue(backend, work))


async def _chosen(
    tasks: TaskQueue, state: State | None, queue: str | None, name: str | None, limit: int
) -> list[UUID]:
    """The ids of the tasks that were enqueued first."""
    found: list[UUID] = []
    last: Task | int = 0
    while len(found) < limit:
        size = min(PAGE, limit - len(found))
        page = await tasks.find(state=state, queue=queue, name=name, after=last, limit=size)
        found += [task.id for task in page]
        if len(page) < size:
            break
        last = page[-1]
    return found


async def _each(
    tasks: TaskQueue,
    ids: Sequence[UUID],
    work: Callable[[TaskQueue, UUID], Awaitable[str]],
    *,
    json: bool,
) -> bool:
    """Do what can be done, and say it: one that is refused does not keep the others from it.

    Returns:
        whether all of it was done.
    """
    refused = 0
    for id in ids:
        try:
            done = Done(id, True, await work(tasks, id))
        except (UsageError, TaskNotFound) as error:
            done = Done(id, False, str(error))
            refused += 1
        _tell(done, json=json)
    return not refused


def _tell(one: Done, *, json: bool) -> None:
    if json:
        print_json(one)
    elif one.done:
        print_line(f"{one.id}: {one.what}")
    else:
        complain(one.what)


def _end(is_done: bool) -> None:
    if not is_done:
        raise typer.Exit(FAILED)


def purge(
    *,
    older_than: Annotated[
        str,
        typer.Option(
            metavar="SPAN", help="Only tasks that ended so long ago: 90 (seconds), 15m, 12h, 7d."
        ),
    ] = "0",
    state: OfState = None,
    queue: OfQueue = None,
    name: OfName = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    backend: BackendName = None,
    json: AsJson = False,
) -> None:
    """Delete tasks that have ended, with their results."""
    age = seconds(older_than)
    is_all = not (age or state or queue or name)
    if is_all and not yes and sys.stdin.isatty():
        _ask("Delete every task that has ended?")

    async def work(tasks: TaskQueue) -> int:
        return await tasks.purge(older_than=age, state=state, queue=queue, name=name)

    deleted = on_queue(backend, work)
    if json:
        print_json({"deleted": deleted})
    else:
        print_line(f"{deleted} tasks deleted")


def _ask(question: str) -> None:
    if not typer.confirm(question, err=True):
        raise typer.Exit(FAILED)

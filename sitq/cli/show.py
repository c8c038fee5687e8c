"""``sitq show``: everything that is known of one task."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer

from sitq.cli.output import print_json, print_line
from sitq.cli.records import progress, when
from sitq.cli.store import AsJson, BackendName, on_queue
from sitq.cli.text import cut, harmless, moment, represented
from sitq.errors import NotSerializable
from sitq.handle import not_found
from sitq.lifecycle import TERMINAL
from sitq.model import ErrorInfo, State, Task, TaskTree
from sitq.queue import TaskQueue

__all__ = ["add_to"]

MOST = 2_000
"""Characters of a value that are shown."""
MOST_TASKS = 1_000
"""Tasks of a tree that are shown."""
INDENT = "    "


def add_to(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(show)


@dataclass(frozen=True, slots=True)
class Value:
    """A stored value, as far as it can be read."""

    value: Any = None
    unreadable: str | None = None
    """Why it cannot be read."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a task was enqueued with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __repr__(self) -> str:
        named = [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"({', '.join([*map(repr, self.args), *named])})"


@dataclass(frozen=True, slots=True)
class Below:
    """A task of a tree."""

    depth: int
    parent: UUID | None
    task: Task


@dataclass(frozen=True, slots=True)
class Details:
    """All that `show` prints."""

    task: Task
    result: Value | None
    """What it returned; None if it did not."""
    arguments: Value | None
    """What it was enqueued with; None if that is not asked for."""
    tree: list[Below] | None
    """It and the tasks of its groups, from the top down; None if they are not asked for."""


def show(
    id: Annotated[UUID, typer.Argument(help="The id of the task.", show_default=False)],
    *,
    arguments: Annotated[
        bool, typer.Option("--arguments", help="With its arguments, which may be secret.")
    ] = False,
    tree: Annotated[
        bool, typer.Option("--tree", help="With the tasks that it enqueued in groups.")
    ] = False,
    backend: BackendName = None,
    json: AsJson = False,
) -> None:
    """Show a task: its state, times, error, result."""
    found = on_queue(backend, lambda tasks: _details(tasks, id, arguments=arguments, tree=tree))
    if json:
        print_json(found)
        return
    for line in lines(found, datetime.now(UTC)):
        print_line(line)


async def _details(tasks: TaskQueue, id: UUID, *, arguments: bool, tree: bool) -> Details:
    task = await tasks.get(id)
    if task is None:
        raise not_found(id)
    below = await tasks.tree(id, limit=MOST_TASKS) if tree else None
    return Details(
        task,
        await _value(_result(tasks, id)) if task.state is State.SUCCEEDED else None,
        await _value(_arguments(tasks, id)) if arguments else None,
        None if below is None else list(_flat(below)),
    )


async def _result(tasks: TaskQueue, id: UUID) -> Any:
    result = await tasks.get_result(id)
    return None if result is None else result.value


async def _arguments(tasks: TaskQueue, id: UUID) -> Any:
    found = await tasks.arguments(id)
    return None if found is None else Arguments(*found)


async def _value(reading: Awaitable[Any]) -> Value:
    try:
        return Value(await reading)
    except NotSerializable as error:
        return Value(unreadable=str(error))


def _flat(tree: TaskTree) -> Iterator[Below]:
    """Without recursion: a tree can be as deep as it is large."""
    left: list[tuple[int, UUID | None, TaskTree]] = [(0, None, tree)]
    while left:
        depth, parent, one = left.pop()
        yield Below(depth, parent, one.task)
        left += [(depth + 1, one.task.id, child) for child in reversed(one.children)]


def lines(details: Details, now: datetime) -> Iterator[str]:
    """What is printed of a task. Pure."""
    facts = {**_facts(details.task, now), **_values(details)}
    width = max(map(len, facts))
    for name, fact in facts.items():
        if fact is not None:
            yield f"{name:{width}}  {harmless(str(fact))}"
    if details.task.error is not None:
        yield from ("", *error_lines(details.task.error))
    if details.tree is not None:
        yield from ("", *_tree_lines(details.tree, now))


def _facts(task: Task, now: datetime) -> dict[str, object]:
    cancel = ", to be cancelled" if task.cancel_requested and task.state not in TERMINAL else ""
    return {
        "id": task.id,
        "name": task.name,
        "state": f"{task.state}{cancel}",
        "queue": task.queue,
        "priority": task.priority,
        "key": task.key,
        "seq": task.seq,
        "attempts": task.attempts,
        "crashes": task.crashes or None,
        "enqueued": moment(task.enqueued_at, now),
        "due": moment(task.run_at, now),
        "deadline": moment(task.deadline, now),
        "started": moment(task.started_at, now),
        "ended": moment(task.ended_at, now),
        "progress": progress(task.progress, 20),
        "as of": task.progress and moment(task.progress.at, now),
    }


def _values(details: Details) -> dict[str, str]:
    given = {"arguments": details.arguments, "result": details.result}
    return {name: _written(value) for name, value in given.items() if value is not None}


def _written(value: Value) -> str:
    if value.unreadable is not None:
        return f"({cut(value.unreadable, MOST)})"
    return represented(value.value, MOST)


def error_lines(error: ErrorInfo, what: str = "error", indent: str = "") -> Iterator[str]:
    """An error with its traceback and notes, and below it its cause and its members."""
    name = error.type.removeprefix("builtins.")
    yield from _indented(f"{what}: {name}: {error.message}", indent)
    inner = indent + INDENT
    yield from _indented(error.traceback.rstrip("\n"), inner)
    for note in error.notes:
        yield from _indented(f"note: {note}", inner)
    if error.cause is not None:
        yield from error_lines(error.cause, "caused by", inner)
    for number, member in enumerate(error.members, 1):
        yield from error_lines(member, f"{number} of {len(error.members)}", inner)


def _indented(text: str, indent: str) -> Iterator[str]:
    for line in harmless(text, lines=True).split("\n") if text else ():
        yield f"{indent}{line}"


def _tree_lines(tree: list[Below], now: datetime) -> Iterator[str]:
    for one in tree:
        task = one.task
        # A tree that is deep is not drawn beyond the edge of every terminal.
        since, name = when(task, now), harmless(task.name)
        yield f"{'  ' * min(one.depth, 20)}{task.id}  {task.state}  {since}  {name}"
    if len(tree) == MOST_TASKS:
        yield f"(there may be more: the first {MOST_TASKS} are shown)"

"""``sitq enqueue``: stores a call of a function that an application has registered."""

from __future__ import annotations

import difflib
import json
import math
from typing import Annotated, Any, cast

import typer

from sitq.cli.application import registry_of
from sitq.cli.output import complain, print_json, print_line
from sitq.cli.store import BackendName, on_queue
from sitq.cli.text import cut
from sitq.handle import TaskHandle
from sitq.queue import TaskQueue
from sitq.registry import Registry, TaskFunction

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(enqueue)


def enqueue(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A task function: its name, or the last part of it."),
    ],
    arguments: Annotated[
        str,
        typer.Argument(
            metavar="JSON",
            help="Its arguments: an array has the positional ones, an object the named ones.",
            show_default=False,
        ),
    ] = "[]",
    *,
    app: Annotated[
        str,
        typer.Option("--app", "-a", help="module, or module:name, that registers it."),
    ],
    queue: Annotated[str | None, typer.Option(help="Its queue.")] = None,
    priority: Annotated[int | None, typer.Option(help="-100 to 100; higher starts first.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds before it may run.")] = None,
    key: Annotated[str | None, typer.Option(help="At most one live task has it.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that a run may take.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for its end, and print the result as JSON.")
    ] = False,
    wait_limit: Annotated[
        float, typer.Option(metavar="S", help="With --wait: seconds to wait.", min=0)
    ] = math.inf,
    backend: BackendName = None,
) -> None:
    """Enqueue a call, and print the id of its task."""
    args, kwargs = _arguments(arguments)
    function = function_named(registry_of(app), name).using(
        queue=queue, priority=priority, delay=delay, key=key, timeout=timeout
    )
    call = function.call(*args, **kwargs)

    async def work(tasks: TaskQueue) -> None:
        [handle] = await tasks.enqueue_many([call])
        if wait:
            await _print_result(handle, wait_limit)
        else:
            print_line(str(handle.id))

    on_queue(backend, work)


async def _print_result(handle: TaskHandle[Any], limit: float) -> None:
    complain(f"enqueued {handle.id}")
    print_json(await handle.result(timeout=limit))


def _arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    """The positional and the named arguments that are written as JSON.

    Raises:
        typer.BadParameter: it is no JSON, or neither an array nor an object.
    """
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"the arguments are no JSON: {cut(str(error), 200)}") from None
    if isinstance(value, list):
        return cast("list[Any]", value), {}
    if isinstance(value, dict):
        return [], cast("dict[str, Any]", value)
    raise typer.BadParameter(
        'the arguments are a JSON array or object, such as ["a", 1] or {"url": "a"}'
    )


def function_named(registry: Registry, name: str) -> TaskFunction[..., Any]:
    """The task function with this name, or whose name ends with it.

    Raises:
        typer.BadParameter: there is none, or more than one.
    """
    function = registry.get(name)
    if function is not None:
        return function
    found = [full for full in registry if full.endswith(f".{name}")]
    if len(found) == 1:
        return cast("TaskFunction[..., Any]", registry.get(found[0]))
    near = found or _near(registry, name)
    advice = f"; did you mean {' or '.join(near)}?" if near else ""
    what = "more than one task function is" if found else "no task function is"
    raise typer.BadParameter(f"{what} named {cut(name, 200)}{advice}")


def _near(registry: Registry, name: str) -> list[str]:
    """Names that it may have been meant to be."""
    last = {full.rpartition(".")[2]: full for full in registry}
    close = [
        *difflib.get_close_matches(name, list(registry), 3),
        *(last[part] for part in difflib.get_close_matches(name, list(last), 3)),
    ]
    return list(dict.fromkeys(close))[:3]

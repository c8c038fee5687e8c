"""``sitq watch``: shows a store as it changes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

import anyio
import typer
from rich.live import Live

from sitq.cli.drawing import draw, line
from sitq.cli.output import console, print_json, print_line
from sitq.cli.snapshot import History, Snapshot, View, look
from sitq.cli.store import AsJson, BackendName, existing_backend, with_queue
from sitq.cli.text import span
from sitq.errors import SitqError, StoreUnavailable
from sitq.model import State
from sitq.queue import TaskQueue

__all__ = ["add_to"]

LOAD = 9.0
"""It rests for so many times as long as its look took: it takes a tenth of a connection at most."""
TICK = 1.0
"""Seconds between two drawings, whether there is something new or not."""
PATIENCE = 3.0
"""Seconds after which it is said that the store does not answer."""
ENDED = 128 + signal.SIGTERM
"""The exit code after a SIGTERM."""


def add_to(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(watch)


def watch(
    *,
    interval: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="Seconds between two looks, at least.")
    ] = 1.0,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when no task is pending or running.")
    ] = False,
    backend: BackendName = None,
    json: AsJson = False,
) -> None:
    """Show the store as it changes: counts, rates, running tasks, workers.

    A picture in a terminal, else a line at each look. Ctrl-C ends it, with exit code 130.
    """
    store = existing_backend(backend)
    place = store.place

    async def work(tasks: TaskQueue) -> None:
        follower = Follower(tasks, place, interval)
        if not json and _is_screen():
            await _in_terminal(follower, until_empty=until_empty)
        else:
            await follower.run(_print_json if json else _print_line, until_empty=until_empty)

    with_queue(store, work)


class Follower:
    """Looks at a store again and again.

    Args:
        tasks: the store.
        place: its name.
        interval: seconds between two looks, at least.
    """

    def __init__(self, tasks: TaskQueue, place: str, interval: float) -> None:
        self._tasks = tasks
        self._interval = interval
        self._history = History()
        nothing = Snapshot(dict.fromkeys(State, 0), (), ())
        self._view = View(datetime.now(UTC), place, nothing, None, 0)
        self._asked: float | None = None
        """Since when it has waited for an answer, by the monotonic clock."""

    async def run(self, show: Callable[[View], object], *, until_empty: bool) -> None:
        """Show what there is at each look, until nothing is left if that is wanted.

        Raises:
            StoreUnusable: it will never answer again.
        """
        before = 0.0
        while True:
            took = await self._look()
            show(self._view)
            if until_empty and self._view.trouble is None and not self._view.snapshot.live:
                return
            # Of two looks one that had to wait for the store does not count.
            await anyio.sleep(max(self._interval, LOAD * min(took, before)))
            before = took

    def view(self) -> View:
        """What there is to show now."""
        waited = 0.0 if self._asked is None else time.monotonic() - self._asked
        view = replace(self._view, at=datetime.now(UTC))
        if waited < PATIENCE or view.trouble is not None:
            return view
        return replace(view, trouble=f"for {span(waited)}")

    async def _look(self) -> float:
        """Look, and return the seconds that it took; 0 if there was no answer."""
        self._asked = asked = time.monotonic()
        try:
            snapshot = await look(self._tasks)
        except StoreUnavailable as error:
            self._view = replace(self._view, at=datetime.now(UTC), trouble=str(error))
            return 0.0
        finally:
            self._asked = None
        answered, history = time.monotonic(), self._history
        history.add(answered, snapshot.counts)
        now, place = datetime.now(UTC), self._view.place
        self._view = View(now, place, snapshot, history.rate, history.ended)
        return answered - asked


def _print_line(view: View) -> None:
    print_line(line(view))
    sys.stdout.flush()


def _print_json(view: View) -> None:
    print_json(view)
    sys.stdout.flush()


class Screen:
    """Draws in a terminal, each time over what was drawn before."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._size = live.console.size

    def __call__(self, view: View) -> None:
        out = self._live.console
        if out.size != self._size:  # the lines that were drawn are broken now
            out.clear()
            self._size = out.size
        self._live.update(draw(view, self._size.width, self._size.height), refresh=True)


def _is_screen() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


async def _in_terminal(follower: Follower, *, until_empty: bool) -> None:
    """Draw it. However it ends, the terminal is left as it was, with the last picture."""
    end: Exception | None = None

    async def look_on() -> None:
        nonlocal end
        try:
            await follower.run(screen, until_empty=until_empty)
        except SitqError as error:  # a group would wrap it
            end = error
        group.cancel_scope.cancel()

    async def obey() -> None:
        nonlocal end
        await _terminated()
        end = typer.Exit(ENDED)
        group.cancel_scope.cancel()

    with Live(console=console(), auto_refresh=False, vertical_overflow="crop") as live:
        screen = Screen(live)
        async with anyio.create_task_group() as group:
            group.start_soon(_tick, follower, screen)
            group.start_soon(obey)
            group.start_soon(look_on)
    if end is not None:
        raise end


async def _tick(follower: Follower, screen: Screen) -> None:
    """Times go on, and the terminal may have another size, though the store says nothing new."""
    while True:
        await anyio.sleep(TICK)
        screen(follower.view())


async def _terminated() -> None:
    """Wait for a SIGTERM, which would leave the terminal as it is."""
    if sys.platform == "win32":  # no such receivers there
        await anyio.sleep_forever()
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            return

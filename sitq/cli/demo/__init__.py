"""``sitq demo``: a tour of a minute, on a temporary file that is removed at the end."""

from __future__ import annotations

import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import cast

import typer
from anyio import CancelScope, create_task_group

from sitq.cli.demo.scenes import tour
from sitq.cli.demo.voice import Voice
from sitq.cli.store import run
from sitq.worker.signals import Signals, receive

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(demo)


def demo() -> None:
    """Show in a minute what sitq does, with worker processes of its own.

    It works on a temporary file, and leaves nothing behind.
    """
    logging.getLogger("sitq").setLevel(logging.ERROR)  # the tour kills a worker, and says so itself
    with tempfile.TemporaryDirectory(prefix="sitq-demo-") as folder:
        try:
            code = run(partial(_until_a_signal, Path(folder)))
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
    raise typer.Exit(code)


def _first(error: BaseException) -> BaseException:
    """What went wrong, out of the groups around it."""
    if isinstance(error, BaseExceptionGroup):
        return _first(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    return error


async def _until_a_signal(folder: Path) -> int:
    """The tour. A signal ends it, and the processes in it: 128 + its number."""
    codes: list[int] = []
    with receive() as signals:
        async with create_task_group() as group:
            group.start_soon(_end_at, signals, group.cancel_scope, codes)
            await tour(Voice(), folder)
            group.cancel_scope.cancel()
    return codes[0] if codes else 0


async def _end_at(signals: Signals, scope: CancelScope, codes: list[int]) -> None:
    async for received in signals:
        codes.append(128 + received)
        scope.cancel()

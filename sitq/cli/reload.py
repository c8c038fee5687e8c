"""Tells what code has changed, so that worker processes are started with it anew."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path

from anyio import Event

__all__ = ["changes"]

logger: logging.Logger = logging.getLogger("sitq.supervisor")


def changes(app: str) -> Callable[[Event], AsyncIterator[str]]:
    """What follows the files of an application until an event is set.

    It names a file that has changed, each time that some have.

    Args:
        app: as it stands on the command line. It is not imported.

    Raises:
        ImportError: watchfiles is not installed.
    """
    try:
        from watchfiles import PythonFilter, awatch
    except ModuleNotFoundError as error:
        advice = "--reload needs watchfiles: pip install 'sitq[cli]'"
        raise ImportError(advice, name=error.name) from None

    async def follow(end: Event) -> AsyncIterator[str]:
        try:
            async for changed in awatch(
                *watched(app),
                watch_filter=PythonFilter(),
                stop_event=end,  # its thread hears of no cancellation
                ignore_permission_denied=True,
            ):
                yield _shortest(path for _, path in changed)
        except (OSError, RuntimeError) as error:  # the system has a limit
            logger.error("cannot watch for changes: %s", error)

    return follow


def watched(app: str) -> list[Path]:
    """The current folder, and the files of the application if those are elsewhere."""
    folder = os.getcwd()
    top = app.partition(":")[0].partition(".")[0]
    if PathFinder.find_spec(top, [folder]) is not None:
        return [Path(folder)]
    found: list[Path] = []
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(top)
        if spec is not None:
            found += map(Path, spec.submodule_search_locations or filter(None, [spec.origin]))
    return [Path(folder), *(path for path in found if path.exists())]


def _shortest(paths: Iterable[str]) -> str:
    return min(map(os.path.relpath, paths), key=len)

"""Which store a command is about, and the loop that it is used on."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Annotated, TypeVar

import anyio
import typer

from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.backends.url import backend_from_url
from sitq.errors import StoreUnusable
from sitq.queue import TaskQueue

__all__ = [
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "WRONG",
    "AsJson",
    "BackendName",
    "backend_named",
    "existing_backend",
    "file_of",
    "on_queue",
    "quiet",
    "run",
    "with_queue",
]

T = TypeVar("T")

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: it was done; it was refused, or failed; it was written wrongly; Ctrl-C."""

BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        "-b",
        envvar="SITQ_BACKEND",
        metavar="URL_OR_PATH",
        help="The store: a file, or sqlite:///path, or postgresql://...",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, a value a line.")]


def backend_named(name: str | None) -> Backend:
    """The backend that a URL or a path names, not opened yet.

    Raises:
        typer.BadParameter: none is named, or a store that no other program can reach.
        InvalidOption: it names none.
        ImportError: what it needs is not installed.
    """
    if not name:
        raise typer.BadParameter("name the store: --backend tasks.db, or set SITQ_BACKEND")
    backend = backend_from_url(name) if "://" in name else SQLiteBackend(name)
    if backend.place.startswith("memory:"):
        raise typer.BadParameter("a store in memory is of one program alone; name a file")
    return backend


def existing_backend(name: str | None) -> Backend:
    """As `backend_named`; a file has to be there already, since there is nothing to look for in a
    new one.

    Raises:
        StoreUnusable: there is no such file.
    """
    backend = backend_named(name)
    path = file_of(backend)
    if path is not None and not os.path.exists(path):
        raise StoreUnusable(
            f"there is no file {path}; name another with --backend, or make it: sitq migrate"
        )
    return backend


def file_of(backend: Backend) -> str | None:
    """The path of an SQLite store; None for others."""
    kind, _, path = backend.place.partition(":")
    return path if kind == "sqlite" else None


def on_queue(name: str | None, work: Callable[[TaskQueue], Awaitable[T]]) -> T:
    """Open the store that is there and do this with it, as `with_queue` does."""
    return with_queue(existing_backend(name), work)


def with_queue(backend: Backend, work: Callable[[TaskQueue], Awaitable[T]]) -> T:
    """Open a store and do this with it. What is logged meanwhile is not shown."""

    async def opened() -> T:
        async with TaskQueue(backend) as queue:
            return await work(queue)

    with quiet():
        return run(opened)


@contextmanager
def quiet() -> Generator[None]:
    """Keep the log off the terminal: an error of the command says what is to be said."""
    root, nowhere = logging.getLogger(), logging.NullHandler()
    root.addHandler(nowhere)
    try:
        yield
    finally:
        root.removeHandler(nowhere)


def run(work: Callable[[], Awaitable[T]], *, loop: str = "asyncio") -> T:
    """Run it on an event loop. Ctrl-C ends the command, without a traceback."""
    try:
        return anyio.run(work, backend=loop)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None

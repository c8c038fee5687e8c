"""``sitq migrate``: brings the tables of a store up to date."""

from __future__ import annotations

import typer

from sitq.cli.output import print_line
from sitq.cli.store import BackendName, backend_named, run

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Give the application these commands."""
    app.command()(migrate)


def migrate(backend: BackendName = None) -> None:
    """Make the tables of a store, or bring them up to date.

    Every program that opens a store does so; this is for a deploy that is to do it first. Programs
    with an older sitq cannot open the store afterwards.
    """
    store = backend_named(backend)

    async def opened() -> None:
        async with store:
            print_line(f"{store.place} is up to date")

    run(opened)

"""``sitq migrate``: brings the tables of a store up to date."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from sitq.backends.base import Backend
from sitq.backends.sqlite.migrate import RUNGS
from sitq.cli.doctor.sqlite import File
from sitq.cli.output import print_json, print_line
from sitq.cli.store import FAILED, AsJson, BackendName, backend_named, file_of, quiet, run
from sitq.errors import StoreVersionError

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(migrate)


def migrate(
    *,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only tell; the exit code is 1 if there is something to do."),
    ] = False,
    backend: BackendName = None,
    json: AsJson = False,
) -> None:
    """Make the tables of a store, or bring them up to date.

    Every program that opens a store does so; this is for a deploy that is to do it first. Programs
    with an older sitq cannot open the store afterwards.
    """
    store = backend_named(backend)
    place = store.place
    found, newest = _versions(store)
    if found > newest:
        raise StoreVersionError(
            f"{place} has schema version {found}, this sitq knows {newest}: upgrade sitq"
        )
    if not check and found < newest:
        with quiet():
            run(lambda: _open(store))
    if json:
        print_json({"store": place, "from": found, "to": newest})
    else:
        print_line(_told(place, found, newest, check=check))
    if check and found < newest:
        raise typer.Exit(FAILED)


async def _open(store: Backend) -> None:
    async with store:
        pass


def _told(place: str, found: int, newest: int, *, check: bool) -> str:
    if found == newest:
        return f"{place} is up to date, with schema version {found}"
    before = f"has schema version {found}" if found else "has no tables"
    return f"{place} {before}, {'is to get' if check else 'and now'} version {newest}"


def _versions(store: Backend) -> tuple[int, int]:
    """The version of the tables that are there, 0 for none, and that of this sitq."""
    path = file_of(store)
    if path is None:
        from sitq.cli.doctor.postgres import versions  # psycopg is an extra

        return versions(store)
    if not os.path.exists(path):
        return 0, len(RUNGS)
    with closing(File(Path(path))) as file:
        return file.version(), len(RUNGS)

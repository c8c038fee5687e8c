"""``sitq doctor``: examines a store, and whoever uses it. It changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from sitq.backends.base import Backend
from sitq.cli.doctor.findings import Finding, Level
from sitq.cli.doctor.sqlite import examine_file
from sitq.cli.output import print_json, print_line
from sitq.cli.store import FAILED, AsJson, BackendName, backend_named, file_of
from sitq.cli.text import harmless

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Give the application this command."""
    app.command()(doctor)


def doctor(
    *,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read the whole file, to look for damage.")
    ] = False,
    backend: BackendName = None,
    json: AsJson = False,
) -> None:
    """Examine a store, and whoever uses it: what is wrong, and what to do.

    It changes nothing. The exit code is 1 if there is a problem.
    """
    levels: Counter[Level] = Counter()
    for finding in _findings(backend_named(backend), deep=deep):
        levels[finding.level] += 1
        if json:
            print_json(finding)
        else:
            _print(finding)
    if not json:
        print_line(_sum(levels))
    if levels[Level.PROBLEM]:
        raise typer.Exit(FAILED)


def _findings(store: Backend, *, deep: bool) -> Iterator[Finding]:
    path = file_of(store)
    if path is not None:
        return examine_file(Path(path), deep=deep)
    from sitq.cli.doctor.postgres import examine_server  # psycopg is an extra

    return examine_server(store)


def _print(finding: Finding) -> None:
    print_line(f"{finding.level:7}  {finding.about}: {harmless(finding.what)}")
    if finding.remedy is not None:
        print_line(f"{'':7}  -> {finding.remedy}")


def _sum(levels: Counter[Level]) -> str:
    problems, warnings = levels[Level.PROBLEM], levels[Level.WARNING]
    return f"problems: {problems}, warnings: {warnings}" if problems or warnings else "all is well"

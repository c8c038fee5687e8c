"""What an examination finds, and how one is made: a list of small checks, each of one thing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, TypeVar

from sitq.errors import SitqError

__all__ = ["Check", "Finding", "Level", "examine", "ok", "other_version", "problem", "warning"]

L = TypeVar("L")

Check: TypeAlias = "Callable[[L], Iterable[Finding]]"
"""Looks at one thing, and changes nothing."""


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing."""

    level: Level
    about: str
    what: str
    remedy: str | None = None
    """What to do; None if nothing is to be done, or if the finding says it."""


def ok(about: str, what: str) -> Finding:
    """It is as it should be."""
    return Finding(Level.OK, about, what)


def warning(about: str, what: str, remedy: str) -> Finding:
    """It works, and may not for long, or not as well as it could."""
    return Finding(Level.WARNING, about, what, remedy)


def problem(about: str, what: str, remedy: str | None = None) -> Finding:
    """It does not work, or is about to lose something."""
    return Finding(Level.PROBLEM, about, what, remedy)


def other_version(found: int, newest: int, absent: str) -> Iterator[Finding]:
    """What is wrong with the version of the tables, if something is.

    Args:
        found: that of the store; 0 if it has no tables.
        newest: that of this sitq.
        absent: says that it has none.
    """
    if not found:
        yield problem("schema", absent, "run sitq migrate")
    elif found > newest:
        yield problem(
            "schema", f"version {found}, this sitq knows {newest}", "upgrade sitq on this machine"
        )
    elif found < newest:
        yield warning(
            "schema",
            f"version {found}, this sitq has {newest}",
            "run sitq migrate; whoever opens it does so too, and programs with an older sitq "
            "cannot open it then",
        )


def examine(patient: L, checks: Sequence[Check[L]]) -> Iterator[Finding]:
    """Make these checks, in their order. One that fails keeps no other from being made."""
    for check in checks:
        try:
            yield from check(patient)
        except (SitqError, OSError) as error:
            yield problem(check.__name__.replace("_", " "), str(error) or type(error).__name__)

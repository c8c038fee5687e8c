"""Prints data: as a table for people, or as JSON for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any, cast
from uuid import UUID

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sitq.cli.text import harmless

__all__ = ["as_json", "console", "print_json", "print_line", "print_table", "table"]

UNBOUNDED = 10_000
"""Columns of what is no terminal: nothing is cut there."""


def console() -> Console:
    """Standard output, for rich: without markup, emoji and highlighting, which data could use."""
    width = None if sys.stdout.isatty() else UNBOUNDED
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=False, width=width)


def print_line(text: str = "") -> None:
    """Print a line that people read; nothing in it can control the terminal."""
    sys.stdout.write(f"{harmless(text, lines=True)}\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table of texts and numbers; numbers stand at the right, None is empty."""
    listed = list(rows)
    made = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        cells = [row[number] for row in listed]
        is_number = any(isinstance(cell, (int, float)) for cell in cells)
        made.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in listed:
        made.add_row(*(Text("" if cell is None else harmless(str(cell))) for cell in row))
    return made


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print `table`."""
    console().print(table(columns, rows))


def print_json(value: object) -> None:
    """Print one line of JSON, in ASCII."""
    sys.stdout.write(f"{json.dumps(as_json(value))}\n")


def as_json(value: object) -> Any:
    """What JSON can say of it: records as objects, times as ISO 8601, the rest as text."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Enum):
        return as_json(value.value)
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return {str(key): as_json(item) for key, item in pairs}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_json(item) for item in cast("Iterable[object]", value)]
    return repr(value)

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

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sitq.cli.text import cut, harmless
from sitq.naming import shown

__all__ = [
    "as_json",
    "columns_for",
    "complain",
    "console",
    "print_json",
    "print_line",
    "print_table",
    "table",
]

UNBOUNDED = 10_000
"""Columns of what is no terminal: nothing is cut there."""
GAP = 2
"""Columns between two of a table."""
LEAST = 12
"""Columns that a text needs to be readable, where it is folded."""
WHOLE = ("seq", "id", "state", "when")
"""Columns whose texts are never folded or cut, however narrow the terminal is."""
MOST = 300
"""Characters of a cell. No name that sitq takes is longer."""
MOST_BITS = 10_000
"""Of a number: Python refuses to write out much larger ones."""


def console(least: int = 0) -> Console:
    """Standard output, for rich: without markup, emoji and highlighting, which data could use.

    Args:
        least: its width, where the terminal is narrower: that breaks the lines then.
    """
    width = None if sys.stdout.isatty() else UNBOUNDED
    out = Console(markup=False, emoji=False, highlight=False, soft_wrap=False, width=width)
    if out.width < least:
        out.width = least
    return out


def print_line(text: str = "") -> None:
    """Print a line that people read; nothing in it can control the terminal."""
    sys.stdout.write(f"{harmless(text, lines=True)}\n")


def complain(text: str) -> None:
    """Print one line to standard error that says what is wrong."""
    sys.stderr.write(f"sitq: {harmless(' '.join(text.split()))}\n")


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    room: int = UNBOUNDED,
    *,
    optional: Sequence[str] = (),
    one_line: bool = False,
) -> Table:
    """A table of texts and numbers; numbers stand at the right, None is empty.

    Args:
        columns: their names.
        rows: their cells.
        room: the width of the terminal.
        optional: the columns that are left out where there is no room, the first one first.
        one_line: a row is one line: what does not fit is cut, not folded.
    """
    kept = columns_for(room, columns, rows, optional)
    names = [columns[n] for n in kept]
    cells = [[row[n] for n in kept] for row in rows]
    made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
    for number, (name, width) in enumerate(zip(names, _widths(room, names, cells), strict=True)):
        is_number = any(isinstance(row[number], (int, float)) for row in cells)
        made.add_column(
            name,
            width=width,
            justify="right" if is_number else "left",
            overflow="ellipsis" if one_line else "fold",
            no_wrap=one_line,
        )
    for row in cells:
        made.add_row(*map(Text, map(_text, row)))
    return made


def columns_for(
    room: int, columns: Sequence[str], rows: Sequence[Sequence[object]], optional: Sequence[str]
) -> list[int]:
    """The numbers of the columns that there is room for."""
    needed = dict(zip(columns, map(_least, columns, _natural(columns, rows)), strict=True))
    left = list(columns)
    for name in optional:
        if sum(needed[name] + GAP for name in left) - GAP <= room:
            break
        left.remove(name)
    return [columns.index(name) for name in left]


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, optional: Sequence[str] = ()
) -> None:
    """Print `table`."""
    made = table(columns, rows, console().width, optional=optional)
    # Where there is no room for all that is whole the terminal breaks the lines.
    console(sum((column.width or 0) + GAP for column in made.columns)).print(made)


def print_json(value: object) -> None:
    """Print one line of JSON, in ASCII."""
    text = json.dumps(as_json(value)).replace("\x7f", "\\u007f")
    sys.stdout.write(f"{text}\n")


def as_json(value: object) -> Any:
    """What JSON can say of it: records as objects, times as ISO 8601, the rest as text."""
    if isinstance(value, Enum):
        return as_json(value.value)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= MOST_BITS else shown(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return {_key(key): as_json(item) for key, item in pairs}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_json(item) for item in cast("Iterable[object]", value)]
    return _representation(value)


def _key(key: object) -> str:
    return key if isinstance(key, str) else _representation(key)


def _representation(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return shown(value)


def _text(cell: object) -> str:
    return "" if cell is None else cut(str(cell), MOST)


def _natural(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[int]:
    """The width of each column, if there is room for all that is in it."""
    return [
        max(map(cell_len, (name, *(_text(row[number]) for row in rows))))
        for number, name in enumerate(columns)
    ]


def _least(name: str, natural: int) -> int:
    """The width that a column needs."""
    return natural if name in WHOLE else min(natural, LEAST)


def _widths(room: int, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[int]:
    """The width of each column. Where there is too little room the last ones give way first."""
    widths = _natural(columns, rows)
    excess = sum(widths) + GAP * (len(widths) - 1) - room
    for number, name in reversed([*enumerate(columns)]):
        given = max(0, min(excess, widths[number] - _least(name, widths[number])))
        widths[number] -= given
        excess -= given
    return widths

"""Text that others have stored, made harmless for a terminal, and the words for spans of time."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

import typer

from sitq.naming import shown

__all__ = ["ago", "bar", "cut", "harmless", "moment", "number", "represented", "seconds", "span"]

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_SIZES = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([a-z]*)")
_BROKEN = re.compile("\r\n|\r|\v|\f|\u2028|\u2029|\x85")


def harmless(text: str, *, lines: bool = False) -> str:
    """The text with every character escaped that is not printed as itself.

    Those could move the cursor, turn the direction of writing, or worse.

    Args:
        text: what to print.
        lines: whether line feeds and tabs stay.
    """
    if lines:
        parts = _BROKEN.sub("\n", text).expandtabs(4).split("\n")
        return "\n".join(map(harmless, parts))
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def cut(text: str, most: int) -> str:
    """The text in one line of up to ``most`` characters, harmless."""
    line = harmless(text[: most + 1])
    return line if len(line) <= most else f"{line[: most - 1]}…"


def represented(value: object, most: int) -> str:
    """A value as Python writes it, in one harmless line of up to ``most`` characters."""
    try:
        return cut(repr(value), most)
    except Exception:  # a number of 10,000 digits has no repr
        return cut(shown(value), most)


def number(value: float) -> str:
    """A number without a fraction that is none: ``3``, ``2.5``, ``1e+20``."""
    return f"{value:g}" if math.fabs(value) >= 1e15 else f"{value:.2f}".rstrip("0").rstrip(".")


def bar(share: float, width: int = 20) -> str:
    """How much of the whole is done, drawn: `` 25 % [#####---------------]``."""
    within = min(1.0, max(0.0, share))  # 0 where it is no number
    full = int(within * width)
    return f"{int(within * 100):3d} % [{'#' * full}{'-' * (width - full)}]"


def span(length: float) -> str:
    """A span of time in its largest unit: ``340 ms``, ``2.5 s``, ``4 min``, ``1.5 h``, ``2 d``."""
    if length < 0:
        return f"-{span(-length)}"
    for size, unit in _UNITS:
        if length >= size:
            return f"{_short(length / size)} {unit}"
    return f"{_short(length)} s" if length >= 1 else f"{length * 1000:.0f} ms"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")


def seconds(text: str) -> float:
    """The seconds of a span of time as it is written on the command line: ``90``, ``15m``, ``7d``.

    Raises:
        typer.BadParameter: it is none.
    """
    found = _SPAN.fullmatch(text.strip())
    if found is None or found[2] not in _SIZES:
        raise typer.BadParameter(f"{text!r} is no span of time; write 90, 15m, 12h, 7d or 2w")
    return float(found[1]) * _SIZES[found[2]]


def ago(then: datetime | None, now: datetime | None = None) -> str:
    """How long ago it was, or in how long it will be; nothing for None."""
    if then is None:
        return ""
    passed = ((now or datetime.now(UTC)) - then).total_seconds()
    return f"{span(passed)} ago" if passed >= 0 else f"in {span(-passed)}"


def moment(then: datetime | None, now: datetime) -> str | None:
    """A point in time, and how far away it is; None for None."""
    return then and f"{then.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {ago(then, now)}"

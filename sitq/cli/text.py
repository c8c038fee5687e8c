"""Text that others have stored, made harmless for a terminal, and the words for spans of time."""

from __future__ import annotations

import re
from datetime import UTC, datetime

__all__ = ["ago", "cut", "harmless", "span"]

_SPANS = ((86_400, "d"), (3_600, "h"), (60, "min"))
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


def span(seconds: float) -> str:
    """A span of time in its largest unit: ``340 ms``, ``2.5 s``, ``4 min``, ``3 h``, ``2 d``."""
    if seconds < 0:
        return f"-{span(-seconds)}"
    for size, unit in _SPANS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def ago(moment: datetime | None) -> str:
    """How long ago it was, or in how long it will be; nothing for None."""
    if moment is None:
        return ""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"

"""Many rows as one value a column: arrays as PostgreSQL writes them.

psycopg makes them too, at several times the cost.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["bodies", "ids", "numbers", "texts"]


def numbers(values: Iterable[float | bool | None]) -> str:
    """An array of numbers, or of truth values."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def texts(values: Iterable[str | None]) -> str:
    """An array of texts."""
    return "{" + ",".join(["NULL" if text is None else _quoted(text) for text in values]) + "}"


def bodies(values: Iterable[bytes | None]) -> str:
    """An array of bytes."""
    return (
        "{"
        + ",".join(["NULL" if body is None else f'"\\\\x{body.hex()}"' for body in values])
        + "}"
    )


def ids(values: Iterable[bytes]) -> str:
    """An array of ids."""
    return "{" + ",".join([id.hex() for id in values]) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

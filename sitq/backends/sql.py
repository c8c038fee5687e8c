"""Loads named queries from ``.sql`` files: each begins with a line ``-- name: some_name``.

Where a query says ``{some_name}`` it gets the text of the one above it that has this name.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["load", "load_queries"]

_PART = re.compile(r"\{(\w+)\}")
_HEADER = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(package: str, name: str) -> str:
    """The text of one file of a package."""
    data = pkgutil.get_data(package, name)
    assert data is not None, f"the loader of {package} gives no files"
    return data.decode()


def load_queries(package: str, *names: str) -> Mapping[str, str]:
    """The queries of some files, by name."""
    _, *parts = _HEADER.split("\n".join(load(package, name) for name in names))
    queries: dict[str, str] = {}
    for key, text in zip(parts[::2], parts[1::2], strict=True):
        queries[key] = text.strip()
        for other in _PART.findall(text):
            queries[key] = queries[key].replace(f"{{{other}}}", queries.get(other, f"{{{other}}}"))
    return MappingProxyType(queries)

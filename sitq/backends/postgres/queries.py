"""The queries of this store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from sitq.backends.sql import load, load_queries

__all__ = ["RUNGS", "Queries", "queries", "rung"]

Queries = Mapping[str, str]


RUNGS: tuple[str, ...] = ("schema.sql", "schema_2.sql")
"""Rung n takes a database from version n to n + 1; version 0 is one without tables of sitq.

A rung that was released once stays as it is: what changes the schema is a new one.
"""

_PACKAGE = "sitq.backends.postgres"
_SCHEMA = re.compile(r"\bsitq\.")


@cache
def queries(schema: str) -> Queries:
    """The queries, for the tables of a schema. Its name was checked."""
    texts = load_queries(_PACKAGE, "queries.sql", "groups.sql")
    return MappingProxyType({name: _in_schema(text, schema) for name, text in texts.items()})


def rung(number: int, schema: str) -> str:
    """The script that takes the schema from this version to the next."""
    return _in_schema(load(_PACKAGE, RUNGS[number]), schema)


def _in_schema(text: str, schema: str) -> str:
    return _SCHEMA.sub(f"{schema}.", text)

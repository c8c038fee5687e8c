"""Which versions of SQLite are refused, and which are warned about."""

from __future__ import annotations

import logging
import os
import sqlite3
from functools import cache
from typing import TypeAlias

from sitq.backends.sqlite.verbs import SQL
from sitq.errors import StoreUnusable

__all__ = ["has_reset_race", "refuse_too_old", "warn_if_shared"]

Version: TypeAlias = tuple[int, int, int]

OLDEST: Version = (3, 35, 0)
"""The first with RETURNING."""
logger: logging.Logger = logging.getLogger("sitq.sqlite")


def refuse_too_old() -> None:
    """Refuse a version that lacks what the queries need.

    Raises:
        StoreUnusable: it is too old.
    """
    if sqlite3.sqlite_version_info < OLDEST:
        raise StoreUnusable(f"SQLite {sqlite3.sqlite_version} is too old; 3.35 is the oldest")


def has_reset_race(version: Version) -> bool:
    """Whether two processes that reset the write-ahead log at the same moment can damage the file.

    Fixed in SQLite 3.51.3, and in 3.50.7 and 3.44.6: https://www.sqlite.org/wal.html#walresetbug.
    """
    fixed_since: dict[tuple[int, int], Version] = {(3, 50): (3, 50, 7), (3, 44): (3, 44, 6)}
    return version < fixed_since.get(version[:2], (3, 51, 3))


def warn_if_shared(connection: sqlite3.Connection) -> None:
    """Warn, once in this process, when workers of other processes use the file too and may race."""
    shared = connection.execute(SQL["is_shared"], (os.getpid(),)).fetchone()[0]
    if shared and has_reset_race(sqlite3.sqlite_version_info):
        _warn(sqlite3.sqlite_version)


@cache
def _warn(version: str) -> None:
    logger.warning(
        "SQLite %s has a rare bug by which several processes that share a file can damage it; "
        "3.51.3, 3.50.7 and 3.44.6 are free of it",
        version,
    )

"""Checks of an SQLite store. It is opened for reading only, and left as it was."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sitq.backends.sql import load_queries
from sitq.backends.sqlite import recovery
from sitq.backends.sqlite.connect import Database, read_text
from sitq.backends.sqlite.migrate import RUNGS
from sitq.backends.sqlite.schema import refuse_others
from sitq.cli.doctor import files, rows
from sitq.cli.doctor.findings import Check, Finding, examine, ok, other_version, problem, warning
from sitq.cli.doctor.rows import Due, Unknown
from sitq.clock import Clock
from sitq.errors import StoreError
from sitq.handle import to_worker_status
from sitq.model import WorkerStatus

__all__ = ["File", "examine_file"]

T = TypeVar("T")

SQL = load_queries("sitq.cli.doctor", "sqlite.sql")
LIMIT = 2.0
"""Seconds for which a locked database is tried again."""
PAGE = 4_096
"""Bytes of a page below which SQLite is slow."""
MUCH_FREE = 64 << 20
"""Bytes in free pages that are worth a VACUUM, where they are more than half of the file."""


class File:
    """A database that is open for reading only.

    Where there is a log, SQLite is not to write it into the database when this is closed: what
    there is belongs to whoever comes to use it. Where there is none, it is to leave none behind.

    Args:
        path: of a database that is there.

    Raises:
        StoreError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = Database(str(path), "FULL", LIMIT)
        mode = "ro" if os.path.exists(f"{path}-wal") else "rw"
        uri = f"file:{quote(str(path))}?mode={mode}"
        try:
            self._connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
        except sqlite3.Error as error:
            self._database.judge(error, None)
            raise
        self._connection.text_factory = read_text
        self._connection.execute("PRAGMA query_only = ON")
        self._connection.execute("PRAGMA trusted_schema = OFF")

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def read(self, look: Callable[[sqlite3.Connection], T]) -> T:
        """Look at it.

        Raises:
            StoreError: that cannot be done.
        """
        return self._database.read(self._connection, look)

    def rows(self, query: str, *values: object) -> list[Any]:
        """What a query answers."""
        return self.read(lambda connection: connection.execute(query, values).fetchall())

    def value(self, query: str) -> Any:
        """The first value that a query answers; None if there is none."""
        found = self.rows(query)
        return found[0][0] if found else None

    def version(self) -> int:
        """The version of its tables; 0 if there are none."""
        found = self.value(SQL["version"]) if self.value(SQL["is_ours"]) else 0
        return found if isinstance(found, int) else 0

    def now(self) -> float:
        """What time it is here."""
        return Clock().time()

    def workers(self) -> Sequence[WorkerStatus]:
        """Those that have a lease, without programs that have groups."""
        found = self.read(lambda connection: recovery.workers(connection, Clock().monotonic()))
        return [to_worker_status(row) for row in found if row.queues != ()]

    def due(self, now: float) -> Sequence[Due]:
        """Pending tasks, by queue."""
        return [Due(*row) for row in self.rows(SQL["due"], now)]

    def unknown(self) -> Sequence[Unknown]:
        """Pending tasks that nobody knows, by function."""
        return [Unknown(*row) for row in self.rows(SQL["unknown"])]

    def orphans(self) -> int:
        """Running tasks of workers that have no lease."""
        return self.value(SQL["orphans"])

    def latest(self) -> float | None:
        """When the newest tasks were enqueued, at the latest."""
        return self.value(SQL["latest"])


def examine_file(path: Path, *, deep: bool) -> Iterator[Finding]:
    """All that there is to say of a file."""
    yield from examine(path, files.CHECKS if path.is_file() else files.CHECKS_BEFORE)
    if not path.is_file():
        return
    try:
        with closing(File(path)) as file:
            version = file.version()
            yield from examine(file, (*CHECKS, damage) if deep else CHECKS)
            if version == len(RUNGS):
                yield from examine(file, rows.CHECKS)
    except StoreError as error:
        yield problem("opening", str(error))


def schema(file: File) -> Iterator[Finding]:
    """Whether its tables are those of this sitq."""
    version, newest = file.version(), len(RUNGS)
    yield from other_version(version, newest, "there are no tables of sitq in it")
    if version == newest:
        file.read(lambda connection: refuse_others(connection, str(file.path), RUNGS))
        yield ok("schema", f"version {version}")


def journal(file: File) -> Iterator[Finding]:
    """Whether it is written ahead to a log, so that readers and a writer do not wait."""
    mode = file.value("PRAGMA journal_mode")
    if mode == "wal":
        yield ok("journal", "wal")
    else:
        yield warning(
            "journal",
            f"the journal mode is {mode}, not wal",
            "sitq sets it when it opens the file; do not set another one",
        )


def pages(file: File) -> Iterator[Finding]:
    """Whether its pages have a good size, and are in use."""
    length = file.value("PRAGMA page_size")
    count, free = file.value("PRAGMA page_count"), file.value("PRAGMA freelist_count")
    told = f"{count} pages of {length} bytes, {free} of them free"
    if length < PAGE:
        yield warning("pages", told, "they are small: PRAGMA page_size = 4096, VACUUM INTO a copy")
    elif free * length > MUCH_FREE and 2 * free > count:
        yield warning("pages", told, "VACUUM gives the room back; stop the workers before")
    else:
        yield ok("pages", told)


def damage(file: File) -> Iterator[Finding]:
    """Whether the whole file can be read, and indexes agree with tables. It takes its time."""
    found = [text for (text,) in file.rows("PRAGMA quick_check(10)")]
    if found == ["ok"]:
        yield ok("damage", "none was found")
    for text in found if found != ["ok"] else ():
        yield problem("damage", str(text), "restore the file from a copy")


CHECKS: Sequence[Check[File]] = (schema, journal, pages)

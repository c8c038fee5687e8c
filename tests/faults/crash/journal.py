"""What is written down while processes die: files that they append to, and triggers in the store.

A file gets a record by one write, which a SIGKILL can cut short but not undo. In the database,
triggers note every change of a task and of a worker in the transaction that makes it: what is
written there is exactly what was committed, in its order.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sitq.backends.sqlite import schema

TRIGGERS = """
CREATE TABLE journal (
    n         INTEGER PRIMARY KEY,
    at        REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400),
    event     TEXT NOT NULL,
    seq       INTEGER NOT NULL,
    id        BLOB,
    key       TEXT,
    state     INTEGER,
    fence     INTEGER,
    attempts  INTEGER,
    crashes   INTEGER,
    epoch     INTEGER,
    cancel    INTEGER,
    worker    INTEGER,
    leased    INTEGER,
    whole     INTEGER,
    arguments BLOB
);
CREATE TRIGGER journal_stored AFTER INSERT ON sitq_task BEGIN
    INSERT INTO journal
        (event, seq, id, key, state, fence, attempts, crashes, epoch, cancel, worker, arguments)
    VALUES
        ('stored', NEW.seq, NEW.id, NEW.key, NEW.state, NEW.fence, NEW.attempts, NEW.crashes,
         NEW.epoch, NEW.cancel, NEW.worker, substr(NEW.arguments, 1, 64));
END;
CREATE TRIGGER journal_changed AFTER UPDATE ON sitq_task BEGIN
    INSERT INTO journal
        (event, seq, id, key, state, fence, attempts, crashes, epoch, cancel, worker, leased)
    VALUES
        ('changed', NEW.seq, NEW.id, NEW.key, NEW.state, NEW.fence, NEW.attempts, NEW.crashes,
         NEW.epoch, NEW.cancel, NEW.worker,
         EXISTS (SELECT 1 FROM sitq_worker WHERE id = NEW.worker));
END;
CREATE TRIGGER journal_pruned AFTER DELETE ON sitq_task BEGIN
    INSERT INTO journal (event, seq, id, whole) VALUES
        ('pruned', OLD.seq, OLD.id, OLD.state = 4 OR coalesce(OLD.value, OLD.error) IS NOT NULL
         OR EXISTS (SELECT 1 FROM sitq_big WHERE seq = OLD.seq AND part > 0));
END;
CREATE TRIGGER journal_body AFTER INSERT ON sitq_big WHEN NEW.part = 0 BEGIN
    INSERT INTO journal (event, seq, arguments) VALUES ('body', NEW.seq, substr(NEW.body, 1, 64));
END;
CREATE TABLE journal_worker (
    n       INTEGER PRIMARY KEY,
    at      REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400),
    event   TEXT NOT NULL,
    id      INTEGER NOT NULL,
    pid     INTEGER NOT NULL,
    lease   REAL NOT NULL,
    beat    REAL NOT NULL,
    suspect REAL
);
CREATE TRIGGER journal_hired AFTER INSERT ON sitq_worker BEGIN
    INSERT INTO journal_worker (event, id, pid, lease, beat)
    VALUES ('hired', NEW.id, NEW.pid, NEW.lease, NEW.beat);
END;
CREATE TRIGGER journal_gone AFTER DELETE ON sitq_worker BEGIN
    INSERT INTO journal_worker (event, id, pid, lease, beat, suspect)
    VALUES ('gone', OLD.id, OLD.pid, OLD.lease, OLD.beat, OLD.suspect);
END;
"""


OTHERS = """
WITH found (type, name) AS ({objects})
SELECT type, name FROM found WHERE name NOT LIKE 'journal%'
"""
"""Leaves out what is made here."""


class Entry(NamedTuple):
    """One change of a task, as the store has committed it."""

    at: float
    event: str
    seq: int
    id: bytes
    key: str | None
    state: int
    fence: int
    attempts: int
    crashes: int
    epoch: int
    cancel: int
    worker: int | None
    leased: int | None
    """Whether the worker had a lease then."""
    whole: int | None
    """Whether what was pruned had the result that it must have."""
    arguments: bytes | None


class Service(NamedTuple):
    """The beginning or the end of a worker's row."""

    at: float
    event: str
    id: int
    pid: int
    lease: float
    beat: float
    suspect: float | None


class Journal:
    """A file of records, each on its line."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, **record: Any) -> None:
        """Append a record, with the time."""
        # The end of the line comes first: what a kill has cut short stays on a line of its own.
        line = json.dumps({"at": time.time(), **record})
        os.write(self._descriptor, b"\n" + line.encode())

    def close(self) -> None:
        os.close(self._descriptor)


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, without those that were cut short."""
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n"):
        if line.endswith(b"}"):
            yield json.loads(line)


def connect(path: Path) -> sqlite3.Connection:
    """A connection of the test's own to the database."""
    return sqlite3.connect(path, timeout=30, isolation_level=None)


def install(path: Path) -> None:
    """Let the database write its journal. To be called before the first task is stored."""
    with closing(connect(path)) as connection:
        connection.executescript(f"BEGIN IMMEDIATE; {TRIGGERS} COMMIT")


@contextmanager
def allowed() -> Iterator[None]:
    """In this block sitq, which refuses triggers on its tables, overlooks those of the journal."""
    objects = schema._OBJECTS
    schema._OBJECTS = OTHERS.format(objects=objects)
    try:
        yield
    finally:
        schema._OBJECTS = objects


def entries(connection: sqlite3.Connection) -> Iterator[Entry]:
    """Every change of a task, in the order of the commits."""
    names = ", ".join(Entry._fields)
    for row in connection.execute(f"SELECT {names} FROM journal ORDER BY n"):
        yield Entry._make(row)


def services(connection: sqlite3.Connection) -> Iterator[Service]:
    """The beginnings and ends of workers, in the order of the commits."""
    names = ", ".join(Service._fields)
    for row in connection.execute(f"SELECT {names} FROM journal_worker ORDER BY n"):
        yield Service._make(row)

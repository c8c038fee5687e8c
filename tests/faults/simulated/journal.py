"""What triggers in the database saw: every change of a row, whoever made it."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

import trio

from sitq.backends.states import STATES
from sitq.model import State

__all__ = ["Entry", "Row", "install", "parents", "read"]

_FIELDS = (
    "seq, id, name, queue, key, priority, deadline, run_at, state, fence, worker, attempts, "
    "crashes, cancel, started, group_id"
)
_NAMES = _FIELDS.split(", ")
_OLD, _NEW = (", ".join(f"{whose}.{name}" for name in _NAMES) for whose in ("old", "new"))
_NONE = ", ".join(["NULL"] * len(_NAMES))
_SCRIPT = f"""
CREATE TEMP TABLE journal (number INTEGER PRIMARY KEY, moment, worker,
    {", ".join(f"old_{name}" for name in _NAMES)}, {", ".join(f"new_{name}" for name in _NAMES)});
CREATE TEMP TRIGGER stored AFTER INSERT ON sitq_task BEGIN
    INSERT INTO journal VALUES (NULL, moment(), NULL, {_NONE}, {_NEW});
END;
CREATE TEMP TRIGGER changed AFTER UPDATE ON sitq_task BEGIN
    INSERT INTO journal VALUES (NULL, moment(), NULL, {_OLD}, {_NEW});
END;
CREATE TEMP TRIGGER deleted AFTER DELETE ON sitq_task BEGIN
    INSERT INTO journal VALUES (NULL, moment(), NULL, {_OLD}, {_NONE});
END;
CREATE TEMP TABLE families (id, parent);
CREATE TEMP TRIGGER opened AFTER INSERT ON sitq_group BEGIN
    INSERT INTO families VALUES (new.id, new.parent);
END;
CREATE TEMP TRIGGER left AFTER DELETE ON sitq_worker BEGIN
    INSERT INTO journal VALUES (NULL, moment(), old.id, {_NONE}, {_NONE});
END;
"""


class Row(NamedTuple):
    """A task as it was in the store."""

    seq: int
    id: bytes
    name: str
    queue: str
    key: str | None
    priority: int
    deadline: float | None
    run_at: float
    state: State
    fence: int
    worker: int | None
    attempts: int
    crashes: int
    cancel: int
    started: float | None
    group: int | None


class Entry(NamedTuple):
    """One change: of a task, or that a worker lost its lease or ended it."""

    moment: float
    """On the clock of the loop."""
    worker: int | None
    old: Row | None
    new: Row | None

    def __str__(self) -> str:
        if self.worker is not None:
            return f"{self.moment:.6f} store: worker {self.worker} has no lease"
        row = self.new or self.old
        assert row is not None
        before = None if self.old is None else self.old.state
        after = None if self.new is None else self.new.state
        return (
            f"{self.moment:.6f} store: {row.name} {row.seq}.{row.fence} {before} -> {after} "
            f"worker {row.worker} attempts {row.attempts} crashes {row.crashes} "
            f"cancel {row.cancel} run_at {row.run_at:.6f}"
        )


def install(connection: sqlite3.Connection) -> None:
    """Begin to write down what happens."""
    connection.create_function("moment", 0, trio.current_time)
    connection.executescript(_SCRIPT)


def read(connection: sqlite3.Connection) -> list[Entry]:
    """Everything that was written down, in order."""
    rows = connection.execute("SELECT * FROM journal ORDER BY number").fetchall()
    middle = 3 + len(_NAMES)
    return [Entry(row[1], row[2], _row(row[3:middle]), _row(row[middle:])) for row in rows]


def parents(connection: sqlite3.Connection) -> dict[int, int]:
    """Which task opened each group that ever was."""
    return dict(connection.execute("SELECT id, parent FROM families").fetchall())


def _row(values: tuple[object, ...]) -> Row | None:
    if values[0] is None:
        return None
    row = Row._make(values)
    return row._replace(state=STATES[int(row.state)])

"""Stores new tasks: in one statement, where none of them has a key or a large body."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from sqlite3 import Connection, OperationalError
from typing import Any, NamedTuple

from sitq.backends.commit import Operation
from sitq.backends.sqlite.connect import Database, NotPlain
from sitq.backends.sqlite.damage import condemn
from sitq.backends.sqlite.queries import ARGUMENTS, INLINE, SQL, with_rows
from sitq.errors import StoreFull
from sitq.model import NewTask

__all__ = [
    "MOST_ROWS",
    "Insert",
    "insert",
    "insert_at_once",
    "insert_keyed",
    "put_big_arguments",
    "row_of",
]

MOST_ROWS = 1_000
"""Of one statement: its values are bound one by one, and SQLite takes some 32,000."""


class Insert(NamedTuple):
    """New tasks, to be stored inside a transaction, or by a statement that is one."""

    tasks: Sequence[NewTask]

    def __call__(self, connection: Connection) -> list[bytes]:
        return insert(connection, self.tasks)

    def is_plain(self) -> bool:
        """Whether each is one row, and nothing has to be looked up."""
        return all(task.key is None and len(task.arguments) <= INLINE for task in self.tasks)


def insert_at_once(
    database: Database, connection: Connection, batch: Sequence[Operation[Connection, Any]]
) -> bool:
    """Store all tasks of a batch in one statement, if that can be done.

    Rows in a transaction are a statement each, and after each one the thread has to get hold of the
    interpreter again.
    """
    wishes: list[Any] = [operation.apply for operation in batch]
    if not all(type(wish) is Insert and wish.is_plain() for wish in wishes):
        return False
    tasks = [task for wish in wishes for task in wish.tasks]
    if not 0 < len(tasks) <= MOST_ROWS:
        return False
    try:
        database.execute(connection, *_statement(tasks))
    except (NotPlain, StoreFull):  # in a transaction it turns out what is wrong
        return False
    for operation, wish in zip(batch, wishes, strict=True):
        operation.result = [task.id for task in wish.tasks]
    return True


def insert(connection: Connection, tasks: Sequence[NewTask]) -> list[bytes]:
    """Store the tasks. Returns for each the id of the task that stands for it."""
    try:
        ids = _insert_rows(connection, tasks)
    except OperationalError:
        _check_numbers(connection)
        raise
    put_big_arguments(connection, tasks)
    return ids


def _statement(tasks: Sequence[NewTask]) -> tuple[str, list[Any]]:
    """What stores tasks without keys, in their order, and its values."""
    rows = [*map(row_of, tasks)]
    return (SQL["insert"], [*rows[0]]) if len(rows) == 1 else with_rows("insert_many", rows)


def _insert_rows(connection: Connection, tasks: Sequence[NewTask]) -> list[bytes]:
    ids: list[bytes] = []
    for is_keyless, group in groupby(tasks, lambda task: task.key is None):
        run = list(group)  # in turn, since the order of enqueueing is a promise
        if is_keyless:
            for start in range(0, len(run), MOST_ROWS):
                connection.execute(*_statement(run[start : start + MOST_ROWS]))
            ids += [task.id for task in run]
        else:
            ids += [_insert_keyed(connection, task) for task in run]
    return ids


def row_of(task: NewTask) -> tuple[Any, ...]:
    """Its values; the query `new_columns` has their order."""
    return task if len(task.arguments) <= INLINE else task._replace(arguments=None)


def _insert_keyed(connection: Connection, task: NewTask) -> bytes:
    return insert_keyed(connection, "insert_keyed", task, row_of(task)) or task.id


def insert_keyed(
    connection: Connection, query: str, task: NewTask, row: Sequence[Any]
) -> bytes | None:
    """Store a task that has a key. None, or the id of the live task that holds it."""
    while connection.execute(SQL[query], row).rowcount != 1:
        seq, id = connection.execute(SQL["key_holder"], (task.key,)).fetchone()
        if id is not None:
            return id
        condemn(connection, [seq], task.enqueued)  # nobody could ask for that one
    return None


def _check_numbers(connection: Connection) -> None:
    """SQLite takes a number that cannot be followed by another for a full disk."""
    if connection.execute(SQL["is_last_number"]).fetchone() is not None:
        raise StoreFull(
            "a row in the database has the last number of all, which sitq did not give: delete "
            "it, and the entry of sitq_task in sqlite_sequence"
        )


def put_big_arguments(connection: Connection, tasks: Sequence[NewTask]) -> None:
    for task in tasks:
        if len(task.arguments) > INLINE:
            stored = connection.execute(SQL["seq_of"], (task.id,)).fetchone()
            if stored is not None:  # None: another task holds the key
                connection.execute(SQL["put_big"], (stored[0], ARGUMENTS, task.arguments))

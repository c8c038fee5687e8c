"""Stores tasks in a transaction of the caller's own, through the caller's connection."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeGuard

from anyio.lowlevel import checkpoint_if_cancelled

from sitq.backends.loop import Loop
from sitq.backends.sqlite import migrate
from sitq.backends.sqlite.connect import Database, read_text
from sitq.backends.sqlite.forks import refuse_inherited
from sitq.backends.sqlite.inserting import insert
from sitq.errors import InvalidOption, NotOpen, StoreUnavailable, UsageError
from sitq.model import NewTask
from sitq.naming import shown

if TYPE_CHECKING:
    import aiosqlite

__all__ = ["insert_here", "insert_within"]


async def insert_within(
    database: Database, connection: object, tasks: Sequence[NewTask]
) -> list[bytes]:
    """Store the tasks, all or none. Returns for each the id of the task that stands for it.

    Raises:
        InvalidOption: the connection is of another kind, or leads to another database.
        UsageError: no transaction is open on it, or it cannot be used here.
    """
    if _is_aiosqlite(connection):
        return await _on_its_thread(connection, lambda own: insert_here(database, own, tasks))
    # Nobody else is let run before: he might use the connection, and end the transaction.
    await checkpoint_if_cancelled()
    return insert_here(database, connection, tasks)


def insert_here(
    database: Database, connection: object, tasks: Sequence[NewTask], *, is_open: bool = True
) -> list[bytes]:
    """Store the tasks as `insert_within` does, on the thread that calls.

    Args:
        database: where the connection must lead to.
        connection: of sqlite3, with an open transaction.
        tasks: to be stored.
        is_open: whether the database is open in this process, and its tables are known to be there.

    Raises:
        NotOpen: it is not, and its tables are missing or old: to make them could wait for the very
            transaction of the connection.
    """
    if database.in_memory:
        raise InvalidOption("no other connection leads to a database in memory; use a file")
    if _is_aiosqlite(connection):
        raise InvalidOption("a connection of aiosqlite needs an event loop; take one of sqlite3")
    if not isinstance(connection, sqlite3.Connection):
        raise InvalidOption(
            f"connection must be one of sqlite3 or aiosqlite for this store: {shown(connection)}"
        )
    if is_open:
        database.check_usable()
    else:
        refuse_inherited(database.path)
    _check(database, connection)
    try:
        with _read_as(connection, read_text), _savepoint(connection):
            if not is_open:
                _check_tables(database, connection)
            return insert(connection, tasks)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        _refuse_locked(database, error)
        database.judge(error, None)
        raise


def _is_aiosqlite(connection: object) -> TypeGuard[aiosqlite.Connection]:
    module = sys.modules.get("aiosqlite")  # whoever has a connection of it has imported it
    return module is not None and isinstance(connection, module.Connection)


async def _on_its_thread(
    connection: aiosqlite.Connection, work: Callable[[sqlite3.Connection], list[bytes]]
) -> list[bytes]:
    """Behind what was asked of the connection before, and whole even if the caller is cancelled."""
    if not Loop().is_asyncio:
        raise UsageError("a connection of aiosqlite can only be used on asyncio; take sqlite3")
    door: Any = connection
    own = door._connection
    if own is None or not door._running:
        raise UsageError("the connection is closed, or was never opened")
    return await door._execute(work, own)


def _check(database: Database, connection: sqlite3.Connection) -> None:
    try:
        # A SELECT from the table of that name would fix what the transaction can see.
        with _read_as(connection, os.fsdecode):
            files = connection.execute("PRAGMA database_list").fetchall()
    except sqlite3.ProgrammingError as error:
        raise UsageError(f"the connection cannot be used here: {error}") from error
    path = next(file for _, name, file in files if name == "main")
    if not _is_same(database.path, path):
        raise InvalidOption(
            f"the connection leads to another database than the queue: {path or 'in memory'}"
        )
    if not connection.in_transaction:
        raise UsageError(
            "no transaction is open on the connection; begin one before: "
            'connection.execute("BEGIN IMMEDIATE")'
        )


def _check_tables(database: Database, connection: sqlite3.Connection) -> None:
    migrate.refuse_newer(connection, database.path)
    if not migrate.is_climbed(connection):
        raise NotOpen(
            f"{database.path} has no tables of sitq, or those of an older one: open the queue once "
            "before a transaction of your own begins"
        )


def _is_same(path: str, other: str) -> bool:
    """Whether two paths lead to one file, and beside it to one log: a hard link has another."""
    real = os.path.realpath(other)
    if real == path:  # where nobody has it open there may be no log yet
        return True
    with suppress(OSError):
        return all(os.path.samefile(path + end, real + end) for end in ("", "-wal"))
    return False


@contextmanager
def _read_as(connection: sqlite3.Connection, text: Callable[[bytes], str]) -> Generator[None]:
    """Rows are tuples and text is read so, whatever the caller has set."""
    before = connection.row_factory, connection.text_factory
    connection.row_factory, connection.text_factory = None, text
    try:
        yield
    finally:
        connection.row_factory, connection.text_factory = before


@contextmanager
def _savepoint(connection: sqlite3.Connection) -> Generator[None]:
    """A part of a transaction: what it did is undone if it fails, and the rest stays."""
    connection.execute("SAVEPOINT sitq")
    try:
        yield
        connection.execute("RELEASE sitq")
    except BaseException:
        with suppress(sqlite3.Error):  # of an error that has ended the whole transaction
            connection.execute("ROLLBACK TO sitq")
            connection.execute("RELEASE sitq")
        raise


def _refuse_locked(database: Database, error: Exception) -> None:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
        raise StoreUnavailable(
            f"{database.path}: {error}: another connection holds its lock, or has written since "
            "the transaction began to read; begin it with BEGIN IMMEDIATE"
        ) from error

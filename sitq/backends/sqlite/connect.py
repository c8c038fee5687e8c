"""Makes connections to a database file: created safely, checked, with the schema it needs."""

from __future__ import annotations

import errno
import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from operator import methodcaller
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from sitq.backends.sqlite import migrate
from sitq.backends.sqlite.forks import refuse_inherited
from sitq.backends.sqlite.schema import refuse_others
from sitq.backends.sqlite.version import refuse_too_old
from sitq.errors import (
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreReplaced,
    StoreUnavailable,
    StoreUnusable,
)

__all__ = ["Database", "NotPlain", "pause", "read_text"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("sitq.sqlite")

LARGE_LOG = 8 * 1024 * 1024
"""Bytes of the ``-wal`` file above which a worker's sweep cuts it off."""
BLOCKED_LOG = 64 * 1024 * 1024
"""Bytes of the ``-wal`` file above which a reader that keeps it from being cut off is reported."""
LONGEST_PAUSE, SHORTEST_PAUSE = 0.006, 0.0003
"""Seconds before the next try on a locked database."""
STALL = 0.5
"""Seconds after which a lock is not shared, but held by somebody."""

read_text: Callable[[bytes], str] = methodcaller("decode", "utf-8", "replace")
"""How text is read that somebody else may have written."""
_BY_CODE: dict[int, type[StoreError]] = {
    sqlite3.SQLITE_BUSY: StoreUnavailable,
    sqlite3.SQLITE_LOCKED: StoreUnavailable,
    sqlite3.SQLITE_IOERR: StoreUnavailable,
    sqlite3.SQLITE_PROTOCOL: StoreUnavailable,
    sqlite3.SQLITE_NOMEM: StoreUnavailable,
    sqlite3.SQLITE_INTERRUPT: StoreUnavailable,
    sqlite3.SQLITE_FULL: StoreFull,
    sqlite3.SQLITE_READONLY: StoreReadOnly,
    sqlite3.SQLITE_CANTOPEN: StoreUnusable,
    sqlite3.SQLITE_PERM: StoreUnusable,
    sqlite3.SQLITE_CORRUPT: StoreUnusable,
    sqlite3.SQLITE_NOTADB: StoreUnusable,
    sqlite3.SQLITE_AUTH: StoreUnusable,
}
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
_NOT_PLAIN = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_CALLERS_FAULT = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
)
_ADVICE: dict[int, str] = {
    sqlite3.SQLITE_BUSY: "another process holds its lock; try again",
    sqlite3.SQLITE_LOCKED: "another connection holds its lock; try again",
    sqlite3.SQLITE_PROTOCOL: "too many processes open it at once; try again",
    sqlite3.SQLITE_IOERR: "the system reports an input/output error; look at its disk",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
    sqlite3.SQLITE_INTERRUPT: "it was interrupted; try again",
    sqlite3.SQLITE_FULL: "the disk is full; make room",
    sqlite3.SQLITE_READONLY: "it cannot be written; check the permissions of file and folder",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check path, permissions and room on the disk",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore it from a copy",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database; name another file",
}


class NotPlain(Exception):
    """A statement met rows or values that it is not made for."""


def pause(waited: float) -> float:
    """Seconds before the next try on a lock that was waited for so long.

    SQLite keeps no order among those who want its lock: it goes to who tries first when it is free.
    So whoever waited long tries often, and is likely to be next; whoever comes anew tries rarely.
    """
    ceiling = LONGEST_PAUSE
    if waited < STALL:
        ceiling = max(SHORTEST_PAUSE, LONGEST_PAUSE - waited / 5)
    return random.uniform(0.2, 1.0) * ceiling


def _code(error: Exception) -> int:
    if isinstance(error, UnicodeDecodeError):
        return sqlite3.SQLITE_CORRUPT  # SQLite's message quotes what it found
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


class _Judged:
    """Errors of SQLite that leave the block are judged. A class, as every statement is in one."""

    __slots__ = ("_connection", "_database")

    def __init__(self, database: Database, connection: sqlite3.Connection | None) -> None:
        self._database = database
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, (sqlite3.Error, UnicodeDecodeError)):
            self._database.judge(error, self._connection)


class Database:
    """Where the database is and how it is opened.

    Args:
        path: of the file, or ``":memory:"``.
        synchronous: ``"FULL"`` or ``"NORMAL"``.
        busy_limit: seconds for which a locked database is tried again.
    """

    def __init__(self, path: str, synchronous: str, busy_limit: float) -> None:
        self.path = path
        self.in_memory: bool = path == ":memory:"
        self.is_wanted: bool = True
        """No, if it was given up while it was being opened: then no lock is waited for."""
        self.writes: int = 0
        """How many write transactions were begun here."""
        self._synchronous = synchronous
        self._busy_limit = busy_limit
        self._identity: dict[str, tuple[int, int]] = {}
        self._damage: str | None = None
        self._spoiled: set[sqlite3.Connection] = set()
        self._reported = False

    def create(self) -> sqlite3.Connection:
        """Open the database for writing; create the file and the schema where they are missing."""
        refuse_too_old()
        self._refuse_damaged()
        if not self.in_memory:
            self._create_file()
            refuse_inherited(self.path)
        self._identity, self._spoiled = {}, set()  # of an earlier opening
        connection = self._connect(self._set_up)
        self._remember(connection)
        return connection

    def connect(self) -> sqlite3.Connection:
        """One more connection to the database that `create` opened."""
        self.check_usable()  # SQLite would make a new file where the old one was
        return self._connect(lambda _: None)

    def renewed(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """The connection, or another one in its place if an input/output error has spoiled it.

        While there is none to be had the old one stays, and who uses it meets the error.
        """
        if connection in self._spoiled:
            with suppress(StoreError):
                fresh = self.connect()
                self._spoiled.discard(connection)
                connection.close()
                return fresh
        return connection

    @contextmanager
    def transaction(self, connection: sqlite3.Connection) -> Generator[None]:
        """One whole write transaction: committed at the end of the block, or rolled back."""
        self._refuse_damaged()
        with _Judged(self, connection):
            self._begin(connection)
            self.writes += 1
            try:
                yield
                self.check_usable()
                self._patiently(lambda: connection.execute("COMMIT"))
            except BaseException:
                with suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                raise

    def execute(
        self, connection: sqlite3.Connection, statement: str, values: Sequence[object]
    ) -> list[Any]:
        """One statement that is a whole write transaction. Returns its rows.

        Raises:
            NotPlain: it cannot be done so; nothing of it was.
        """
        if connection.in_transaction:  # its commit would not be this statement's
            raise NotPlain

        def attempt() -> list[Any]:
            self.check_usable()  # each time: the lock may have been waited for
            return connection.execute(statement, values).fetchall()

        self.writes += 1
        with _Judged(self, connection):
            try:
                return self._patiently(attempt)
            except (sqlite3.IntegrityError, sqlite3.OperationalError) as error:
                if _code(error) in _NOT_PLAIN:
                    raise NotPlain from error
                raise

    def read(self, connection: sqlite3.Connection, look: Callable[[sqlite3.Connection], T]) -> T:
        """A look without a transaction of ours, repeated while the database is locked."""
        self.check_usable()
        with _Judged(self, connection):
            return self._patiently(lambda: look(connection))

    def check_usable(self) -> None:
        """SQLite goes on writing to a file that was deleted, replaced or damaged: notice it.

        Raises:
            StoreReplaced: the path no longer leads to the file that was opened.
            StoreUnusable: damage was found before.
        """
        self._refuse_damaged()
        for path, before in self._identity.items():
            if _identity(path) != before:
                raise StoreReplaced(f"{path} was deleted or replaced; restart what uses it")

    def checkpoint(self, connection: sqlite3.Connection) -> None:
        """Move a log that has grown large into the database, and cut it off, if nobody reads it."""
        size = os.stat(self.path + "-wal").st_size
        if size > LARGE_LOG:
            with _Judged(self, connection):
                cut = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._report_blocked(size, *cut)

    def _report_blocked(self, size: int, busy: int, frames: int, moved: int) -> None:
        """Once, until it could be cut again: what a reader still needs cannot be moved."""
        if not busy:
            self._reported = False
        elif moved < frames and size > BLOCKED_LOG and not self._reported:
            self._reported = True
            logger.warning(
                "%s-wal has %d MiB and cannot be cut off while a reader needs it: end that reader",
                self.path,
                size >> 20,
            )

    def judge(self, error: Exception, connection: sqlite3.Connection | None) -> None:
        """Remember what an error says of the file and of the connection, and translate it.

        Raises:
            StoreError: it is the store's fault. It is left as it is if it is the caller's.
        """
        code = _code(error)
        if code in _DAMAGED:
            self._damage = f"{self.path}: {error}: restore it, and make a new backend"
        if code == sqlite3.SQLITE_IOERR and connection and not self.in_memory:
            self._spoiled.add(connection)
        if not isinstance(error, _CALLERS_FAULT):
            advice = _ADVICE.get(code, migrate.NOT_OURS)
            kind = _BY_CODE.get(code, StoreUnusable)
            raise kind(f"{self.path}: {error}: {advice}") from error

    def _refuse_damaged(self) -> None:
        """Once damaged, always damaged: much of a damaged file can still be written to."""
        if self._damage is not None:
            raise StoreUnusable(self._damage)

    def _begin(self, connection: sqlite3.Connection) -> None:
        # IMMEDIATE always: a deferred transaction fails when it comes to write after another did.
        self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"))

    def _connect(self, set_up: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
        def attempt() -> sqlite3.Connection:
            connection = sqlite3.connect(
                self.path, timeout=0, isolation_level=None, cached_statements=256
            )
            connection.text_factory = read_text
            try:
                connection.execute(f"PRAGMA synchronous = {self._synchronous}")
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("PRAGMA cache_size = -16384")
                connection.execute("PRAGMA temp_store = MEMORY")
                connection.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")
                set_up(connection)
            except BaseException:
                connection.close()
                raise
            return connection

        # Where many processes open the file together, any of its statements can meet a lock.
        with _Judged(self, None):
            return self._patiently(attempt)

    def _set_up(self, connection: sqlite3.Connection) -> None:
        migrate.refuse_newer(connection, self.path)
        self._use_wal(connection)
        # Nobody waits for a lock to find that there is nothing to do.
        is_climbed = migrate.is_climbed(connection)
        with nullcontext() if is_climbed else self.transaction(connection):
            migrate.refuse_newer(connection, self.path)
            migrate.climb(connection)
            refuse_others(connection, self.path, migrate.RUNGS)

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Try again, after a short pause, while the database is locked."""
        started = time.monotonic()
        while True:
            try:
                return attempt()
            except sqlite3.OperationalError as error:
                waited = time.monotonic() - started
                is_over = waited >= self._busy_limit or not self.is_wanted
                if _code(error) not in _BUSY or is_over:
                    raise
                time.sleep(pause(waited))

    def _remember(self, connection: sqlite3.Connection) -> None:
        """Which files the path leads to now: the database and its log, which is open by now."""
        if not self.in_memory:
            self.read(connection, lambda c: c.execute("SELECT count(*) FROM sitq_meta").fetchone())
            found = {path: _identity(path) for path in (self.path, self.path + "-wal")}
            self._identity = {path: one for path, one in found.items() if one is not None}

    def _create_file(self) -> None:
        """Create an empty file with mode 0600, without ever closing a descriptor of a live one.

        Closing any descriptor of a database drops the locks that SQLite holds on it in this
        process, so the file is made under another name and linked.
        """
        target = Path(self.path)
        try:
            if not target.parent.is_dir():
                raise StoreUnusable(f"{self.path}: there is no such folder; create it first")
            is_missing = not target.exists()
        except OSError as error:  # such as a name that is too long
            raise StoreUnusable(f"{self.path}: {error}") from error
        if is_missing:
            self._link_new(target)
        elif not target.is_file():
            raise StoreUnusable(f"{self.path} is a folder or a device; name a file")
        if not os.access(target, os.W_OK) or not os.access(target.parent, os.W_OK):
            raise StoreReadOnly(f"{self.path}: {_ADVICE[sqlite3.SQLITE_READONLY]}")

    def _link_new(self, target: Path) -> None:
        temporary = target.parent / f".sitq-{os.urandom(8).hex()}"
        try:
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        except PermissionError as error:
            raise StoreReadOnly(f"{self.path}: {error}: check the permissions") from error
        except OSError as error:
            kind = StoreFull if error.errno in _NO_ROOM else StoreUnusable
            raise kind(f"{self.path}: {error}") from error
        os.close(descriptor)
        try:
            with suppress(FileExistsError):
                os.link(temporary, target)
        except OSError:  # a file system without links
            with suppress(FileExistsError):
                os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        finally:
            os.unlink(temporary)

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        if self.in_memory:
            return
        connection.execute("PRAGMA journal_mode = WAL")
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        if mode != "wal":
            raise StoreUnusable(f"{self.path}: no write-ahead log on this file system ({mode})")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:  # nothing is there, or on the way to it
        return None
    return status.st_dev, status.st_ino

"""Named places in sitq at which a process kills itself.

They are wrapped around the functions of sitq by name, in the process that is to die there; sitq
knows nothing of them. A process has one failpoint at the most, with a countdown: within a
transaction each statement counts, so that a process dies between any two of them. Instead of dying
it can wait there until it is let go on.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from sqlite3 import Connection, Cursor
from types import ModuleType
from typing import Any

from sitq.backends.commit import GroupCommit
from sitq.backends.sqlite import inserting, migrate, recovery, settling, verbs
from sitq.backends.sqlite.connect import Database
from sitq.worker.shift import Shift

from .zygote import say, wait_at

IN_TRANSACTION: dict[str, tuple[ModuleType, str]] = {
    "inserting": (inserting, "insert"),
    "reserving": (verbs, "reserve"),
    "settling": (settling, "settle"),
    "keeping": (settling, "_put_big_ends"),
    "cancelling": (verbs, "cancel"),
    "reviving": (verbs, "revive"),
    "pruning": (verbs, "prune"),
    "recovering": (recovery, "recover"),
    "taking": (recovery, "_take"),
    "hiring": (recovery, "hire"),
    "beating": (recovery, "beat"),
}
"""Before, between and after the statements of these; the last one is right before the commit."""

COMMITTED: dict[str, tuple[ModuleType, str]] = {
    "inserted": (inserting, "insert"),
    "reserved": (verbs, "reserve"),
}
"""After the commit of a transaction with such a verb, before anybody is answered."""

# And "running", in the midst of a task; "ran", when it has ended and nothing of that is settled;
# "turning", before and after a statement that is a whole transaction; "migrating", at each step of
# creating a database.

_hit: dict[str, Callable[[], None]] = {}


def hit(name: str) -> None:
    """Die here if this failpoint is armed and its countdown is over. For task functions."""
    if name in _hit:
        _hit[name]()


def arm(name: str, countdown: int, barrier: str | None) -> None:
    """Let this process die at a failpoint, or wait at a barrier there.

    Args:
        name: of the failpoint.
        countdown: how many times it is met, the last one included.
        barrier: where it waits instead of dying.
    """
    left = iter(range(countdown - 1, -1, -1))

    def count() -> None:
        if next(left, None) != 0:
            return
        if barrier is not None:
            wait_at(barrier)
        else:
            say({"dies": name, "at": time.time()})
            os.kill(os.getpid(), signal.SIGKILL)

    _hit[name] = count
    if name in IN_TRANSACTION:
        _count_statements(*IN_TRANSACTION[name], count)
    elif name in COMMITTED:
        _count_commits(*COMMITTED[name], count)
    elif name == "ran":
        _count_before(Shift, "end", count)
    elif name == "turning":
        _count_around(Database, "execute", count)
    elif name == "migrating":
        _count_migration(count)
    elif name != "running":
        raise ValueError(f"there is no failpoint {name}")


class _Counted:
    """A connection that counts before each statement, and before each row of many."""

    def __init__(self, connection: Connection, count: Callable[[], None]) -> None:
        self._connection = connection
        self._count = count

    def execute(self, sql: str, values: Any = ()) -> Cursor:
        self._count()
        return self._connection.execute(sql, values)

    def executemany(self, sql: str, rows: Iterable[Any]) -> Cursor:
        return self._connection.executemany(sql, self._each(rows))

    def _each(self, rows: Iterable[Any]) -> Iterator[Any]:
        for row in rows:
            self._count()
            yield row


def _count_statements(module: ModuleType, name: str, count: Callable[[], None]) -> None:
    verb = getattr(module, name)

    @wraps(verb)
    def counted(connection: Connection, *args: Any) -> Any:
        result = verb(_Counted(connection, count), *args)
        count()
        return result

    setattr(module, name, counted)


def _count_commits(module: ModuleType, name: str, count: Callable[[], None]) -> None:
    verb, commit = getattr(module, name), GroupCommit._commit
    done: list[bool] = []

    @wraps(verb)
    def noted(*args: Any) -> Any:
        result = verb(*args)
        done.append(True)
        return result

    @wraps(commit)
    def counted(*args: Any) -> None:
        commit(*args)
        if done:
            done.clear()
            count()

    setattr(module, name, noted)
    GroupCommit._commit = counted


def _count_before(owner: type | ModuleType, name: str, count: Callable[[], None]) -> None:
    function = getattr(owner, name)

    @wraps(function)
    def counted(*args: Any) -> Any:
        count()
        return function(*args)

    setattr(owner, name, counted)


def _count_around(owner: type, name: str, count: Callable[[], None]) -> None:
    _count_before(owner, name, count)
    function = getattr(owner, name)

    @wraps(function)
    def counted(*args: Any) -> Any:
        result = function(*args)
        count()
        return result

    setattr(owner, name, counted)


def _count_migration(count: Callable[[], None]) -> None:
    _count_statements(migrate, "climb", count)
    for step in ("_link_new", "_use_wal", "_remember"):
        _count_before(Database, step, count)
    _count_before(os, "unlink", count)  # of the temporary name of a new file

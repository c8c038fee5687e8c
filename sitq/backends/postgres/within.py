"""Stores tasks in a transaction of the caller's own, through the caller's connection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import psycopg
from anyio import CapacityLimiter, to_thread
from psycopg.pq import Format, TransactionStatus
from psycopg.rows import tuple_row

from sitq.backends.loop import Loop
from sitq.backends.postgres.connect import Server, adapted, as_query, raise_as_ours
from sitq.backends.postgres.inserting import Statement, Steps, insert
from sitq.backends.postgres.queries import Queries
from sitq.errors import InvalidOption, UsageError
from sitq.model import NewTask
from sitq.naming import shown

__all__ = ["insert_here", "insert_within"]


async def insert_within(
    server: Server,
    sql: Queries,
    store: str,
    connection: object,
    tasks: Sequence[NewTask],
    now: float | None,
) -> list[bytes]:
    """Store the tasks, all or none. Returns for each the id of the task that stands for it.

    Args:
        server: where the tables are.
        sql: the queries.
        store: the name of the store, which the connection must lead to.
        connection: of psycopg, with an open transaction.
        tasks: to be stored.
        now: the time of a clock of one's own; None takes the server's.

    Raises:
        InvalidOption: the connection is of another kind, or leads to another database.
        UsageError: no transaction is open on it, or it cannot be used here.
    """
    ours: Any = connection
    if not isinstance(connection, psycopg.AsyncConnection):
        threads = CapacityLimiter(math.inf)
        work = partial(insert_here, server, sql, store, connection, tasks, now)
        return await to_thread.run_sync(work, limiter=threads)
    _check(ours)
    if not Loop().is_asyncio:
        raise UsageError("an AsyncConnection can only be used on asyncio; take Connection")
    try:
        return await _take_async(ours, _steps(sql, store, tasks, now))
    except psycopg.Error as error:
        raise_as_ours(error, server.place)


def insert_here(
    server: Server,
    sql: Queries,
    store: str,
    connection: object,
    tasks: Sequence[NewTask],
    now: float | None,
) -> list[bytes]:
    """Store the tasks as `insert_within` does, on the thread that calls."""
    ours: Any = connection
    if isinstance(connection, psycopg.AsyncConnection):
        raise InvalidOption("an AsyncConnection needs an event loop; take Connection")
    if not isinstance(connection, psycopg.Connection):
        raise InvalidOption(
            f"connection must be one of psycopg for this store: {shown(connection)}"
        )
    _check(ours)
    try:
        return _take(ours, _steps(sql, store, tasks, now))
    except psycopg.Error as error:
        raise_as_ours(error, server.place)


def _check(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    if connection.closed:
        raise UsageError("the connection is closed")
    status = connection.info.transaction_status
    if status == TransactionStatus.INERROR:
        raise UsageError("the transaction of the connection has failed; roll it back")
    if status == TransactionStatus.IDLE and connection.autocommit:
        raise UsageError(
            "no transaction is open on the connection; begin one before: "
            "with connection.transaction(): ..."
        )


def _steps(
    sql: Queries, store: str, tasks: Sequence[NewTask], now: float | None
) -> Steps[list[bytes]]:
    """Part of a transaction: what it did is undone if it fails, and the rest stays."""
    yield "SAVEPOINT sitq", None
    try:
        [(is_there,)] = yield sql["is_there"], None
        found = (yield sql["store"], None) if is_there else []
        if found != [(store,)]:
            raise InvalidOption("the connection leads to another database than the queue")
        ids = yield from insert(sql, tasks, now)
    except BaseException:
        yield "ROLLBACK TO SAVEPOINT sitq", None
        yield "RELEASE SAVEPOINT sitq", None
        raise
    yield "RELEASE SAVEPOINT sitq", None
    return ids


def _take(connection: psycopg.Connection[Any], steps: Steps[list[bytes]]) -> list[bytes]:
    step = _Step(steps)
    # Not of the connection's own kind: Django's, for one, cannot read what is binary.
    with psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
        cursor.format = Format.BINARY
        adapted(cursor)
        while (statement := step.next()) is not None:
            try:
                cursor.execute(as_query(statement[0]), statement[1])
                step.answer = cursor.fetchall() if cursor.description else []
            except psycopg.Error as error:
                step.error = error
    return step.result


async def _take_async(
    connection: psycopg.AsyncConnection[Any], steps: Steps[list[bytes]]
) -> list[bytes]:
    step = _Step(steps)
    async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
        cursor.format = Format.BINARY
        adapted(cursor)
        while (statement := step.next()) is not None:
            try:
                await cursor.execute(as_query(statement[0]), statement[1])
                step.answer = await cursor.fetchall() if cursor.description else []
            except psycopg.Error as error:
                step.error = error
    return step.result


class _Step:
    """Goes through steps, with the answer or the error that the last one met."""

    def __init__(self, steps: Steps[list[bytes]]) -> None:
        self._steps = steps
        self.answer: list[Any] | None = None
        self.error: psycopg.Error | None = None
        self.result: list[bytes] = []

    def next(self) -> Statement | None:
        """The next statement; None when all was done."""
        error, self.error = self.error, None
        try:
            if error is not None:
                return self._steps.throw(error)
            return next(self._steps) if self.answer is None else self._steps.send(self.answer)
        except StopIteration as end:
            self.result = end.value
            return None

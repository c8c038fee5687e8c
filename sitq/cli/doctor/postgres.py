"""Checks of a PostgreSQL store, and of the server. Only reading statements are sent to it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any, TypeVar
from uuid import uuid4

from sitq.backends.base import Backend
from sitq.backends.postgres import PostgresBackend, recovery
from sitq.backends.postgres.connect import Connection, Server, as_query
from sitq.backends.postgres.driver import Session
from sitq.backends.postgres.queries import RUNGS, queries
from sitq.backends.postgres.recovery import Times
from sitq.backends.sql import load_queries
from sitq.cli.doctor import rows
from sitq.cli.doctor.findings import Check, Finding, examine, ok, other_version, problem, warning
from sitq.cli.doctor.rows import Due, Unknown
from sitq.cli.text import span
from sitq.errors import StoreError
from sitq.handle import to_worker_status
from sitq.model import WorkerStatus

__all__ = ["Schema", "examine_server", "versions"]

T = TypeVar("T")

SQL = load_queries("sitq.cli.doctor", "postgres.sql")
OLDEST = 130_000
"""The first version of PostgreSQL that will do."""
APART, FAR_APART = 1.0, 30.0
"""Seconds between the clock of the server and that of this machine."""
DEAD = 10_000
"""Dead rows that are many, where they are more than the living."""
LONG = 300.0
"""Seconds for which no transaction should be open."""
PATIENCE = 3.0
"""Seconds in which a notice has to come."""


class Schema:
    """A connection to a store, that only reads.

    Args:
        server: where it is.

    Raises:
        StoreError: it cannot be reached.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.name: str = server.schema
        with server.judged():
            self.connection: Connection = server.connect()

    def close(self) -> None:
        """Close it."""
        self.connection.close()

    def read(self, look: Callable[[Session], T]) -> T:
        """Look at it in a transaction that can write nothing.

        Raises:
            StoreError: that cannot be done.
        """

        def reading(session: Session) -> T:
            session.rows("SET TRANSACTION READ ONLY")
            return look(session)

        with self.server.judged():
            return Session(self.connection, again=False).transaction(reading)

    def rows(self, name: str, **values: object) -> list[Any]:
        """What a query answers."""
        query = re.sub(r"\bsitq\.", f"{self.name}.", SQL[name])
        return self.read(lambda session: session.rows(query, values))

    def value(self, name: str, **values: object) -> Any:
        """The first value that a query answers; None if there is none."""
        found = self.rows(name, **values)
        return found[0][0] if found else None

    def version(self) -> int:
        """The version of its tables; 0 if there are none."""
        if not self.value("has_tables", schema=self.name):
            return 0
        found = self.value("version")
        return int(found) if isinstance(found, str) and found.isdecimal() else 0

    def now(self) -> float:
        """What time it is for the server."""
        return self.value("now")

    def workers(self) -> Sequence[WorkerStatus]:
        """Those that have a lease, without programs that have groups."""
        sql = queries(self.name)
        found = self.read(lambda session: recovery.workers(session, sql, Times()))
        return [to_worker_status(row) for row in found if row.queues != ()]

    def due(self, now: float) -> Sequence[Due]:
        """Pending tasks, by queue."""
        return [Due(*row) for row in self.rows("due", now=now)]

    def unknown(self) -> Sequence[Unknown]:
        """Pending tasks that nobody knows, by function."""
        return [Unknown(*row) for row in self.rows("unknown")]

    def orphans(self) -> int:
        """Running tasks of workers that have no lease."""
        return self.value("orphans")

    def latest(self) -> float | None:
        """When the newest tasks were enqueued, at the latest."""
        return self.value("latest")


def server_of(store: Backend) -> Server:
    """Where a store of PostgreSQL is."""
    assert isinstance(store, PostgresBackend)
    return store._server  # pyright: ignore[reportPrivateUsage]


def versions(store: Backend) -> tuple[int, int]:
    """The version of the tables that are there, 0 for none, and that of this sitq.

    Raises:
        StoreError: the server cannot be reached, or asked.
    """
    with closing(Schema(server_of(store))) as there:
        return there.version(), len(RUNGS)


def examine_server(store: Backend) -> Iterator[Finding]:
    """All that there is to say of a store on a server."""
    try:
        with closing(Schema(server_of(store))) as there:
            yield ok("server", f"reached {there.server.place}")
            yield from examine(there, CHECKS)
            if _is_current(there):
                yield from examine(there, (rights, *rows.CHECKS))
    except StoreError as error:
        yield problem("server", str(error))


def _is_current(there: Schema) -> bool:
    with suppress(StoreError):  # `schema` has told of it
        return there.version() == len(RUNGS)
    return False


def version(there: Schema) -> Iterator[Finding]:
    """The version of the server, and whether it writes."""
    number = there.connection.info.server_version
    told = f"PostgreSQL {number // 10_000}.{number % 10_000}"
    if number < OLDEST:
        yield problem("version", told, "sitq needs PostgreSQL 13 or newer")
    else:
        yield ok("version", told)


def writing(there: Schema) -> Iterator[Finding]:
    """Whether it is the one that is written to."""
    with there.server.judged():
        row = there.connection.execute(as_query(SQL["only_reads"])).fetchone()
    if row is not None and row[0]:
        yield problem("writing", "this server, or this role, only reads", "name the primary one")


def schema(there: Schema) -> Iterator[Finding]:
    """Whether the tables are those of this sitq."""
    found, newest = there.version(), len(RUNGS)
    yield from other_version(found, newest, f"{there.name} has no tables of sitq")
    if found == newest:
        yield ok("schema", f"{there.name}, version {found}")


def rights(there: Schema) -> Iterator[Finding]:
    """Whether this role may do what a worker does."""
    lacking = [right for (right,) in there.rows("lacking", schema=there.name)]
    if lacking:
        yield problem("rights", f"this role lacks {', '.join(lacking)}", "GRANT them to it")
    else:
        yield ok("rights", "this role can read and write all tables")


def clocks(there: Schema) -> Iterator[Finding]:
    """How far the clock of the server is from that of this machine."""
    before = time.time()
    its = there.now()
    after = time.time()
    apart = max(before - its, its - after, 0.0)
    told = f"that of the server is {span(apart)} from that of this machine"
    if apart > APART:
        finding = problem if apart > FAR_APART else warning
        yield finding("clocks", told, "moments that callers name are compared with it: use NTP")
    else:
        yield ok("clocks", told)


def dead_rows(there: Schema) -> Iterator[Finding]:
    """Whether what is dead is removed."""
    if not there.value("autovacuum"):
        yield problem("dead rows", "autovacuum is off", "turn it on: sitq becomes slow without it")
    tables = there.rows("dead_rows", schema=there.name)
    for table, living, dead, since in tables:
        if dead > DEAD and dead > living:
            yield warning(
                "dead rows",
                f"{table} has {dead} beside {living} living ones, last vacuum {_ago(since)}",
                "see the long transactions; else VACUUM it",
            )
    yield ok("dead rows", f"{sum(dead for _, _, dead, _ in tables)} in all tables")


def long_transactions(there: Schema) -> Iterator[Finding]:
    """Who keeps dead rows from being removed."""
    for who, since in there.rows("long_transactions", long=LONG):
        yield warning(
            "long transactions",
            f"{who} has had a transaction open for {span(since)}",
            "end it: what died since then cannot be removed, and reserves become slower",
        )


def connections(there: Schema) -> Iterator[Finding]:
    """Whether there is room for more connections."""
    [(count, most)] = there.rows("connections")
    told = f"{count} of {most} are in use"
    if count > 0.9 * most:
        yield warning("connections", told, "raise max_connections, or lower pool_size")
    else:
        yield ok("connections", told)


def notices(there: Schema) -> Iterator[Finding]:
    """Whether this machine hears of what another connection tells."""
    if there.server.pooled:
        yield ok("notices", "none are listened to (listen=False)")
        return
    channel = f"sitq_doctor_{uuid4().hex}"
    with there.server.judged(), there.server.connect() as other:
        there.connection.execute(as_query(f"LISTEN {channel}"))
        other.execute(as_query(f"NOTIFY {channel}"))
        heard = [*there.connection.notifies(timeout=PATIENCE, stop_after=1)]
        there.connection.execute(as_query(f"UNLISTEN {channel}"))
    if heard:
        yield ok("notices", "they come")
    else:
        yield warning(
            "notices",
            f"none came in {span(PATIENCE)}",
            "a pooler that gives each transaction another session keeps them back: "
            "use listen=false in the URL",
        )


def _ago(length: float | None) -> str:
    return "never" if length is None else f"{span(length)} ago"


CHECKS: Sequence[Check[Schema]] = (
    version,
    writing,
    schema,
    clocks,
    dead_rows,
    long_transactions,
    connections,
    notices,
)

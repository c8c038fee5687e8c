"""How the server is reached: connections that give up in time, and what their errors mean."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeVar, cast

import psycopg
from psycopg import errors as pg
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Format

from sitq.errors import (
    InvalidOption,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    StoreUnusable,
)
from sitq.naming import shown

__all__ = [
    "Connection",
    "NoAnswer",
    "Server",
    "adapted",
    "as_query",
    "check_schema",
    "is_passing",
    "raise_as_ours",
]

T = TypeVar("T")

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_UUID_OID: Final = 2950
_PLANS = (
    # Every query walks an index: where a table is new, or has just grown or shrunk, the planner
    # does not know that, and would remember its mistake.
    "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; "
    "SET enable_mergejoin = off; SET jit = off; SET plan_cache_mode = force_generic_plan; "
    # Who vanished in the middle of a transaction must not hold its rows for long.
    "SET idle_in_transaction_session_timeout = '{limit}s'; "
    # What nobody waits for any more is not to go on.
    "SET statement_timeout = '{limit}s'"
)
_POOLER = "a pooler gives each transaction another session: use PostgresBackend(listen=False)"
# While it connects an error has no code, only a text.
_REFUSED: Final = re.compile(
    "FATAL: .*(password authentication failed|no password supplied|does not exist"
    "|no pg_hba.conf entry|not permitted|permission denied)"
)
_ADVICE: Final = (
    (pg.UndefinedTable, StoreUnusable, "its tables are gone; make a new backend to make them anew"),
    (pg.InsufficientPrivilege, StoreUnusable, "give its role the rights that it needs"),
    (pg.InvalidPassword, StoreUnusable, "check the name and password"),
    (pg.InvalidAuthorizationSpecification, StoreUnusable, "check the name and password"),
    (pg.InvalidCatalogName, StoreUnusable, "create the database, or name another one"),
    (pg.ReadOnlySqlTransaction, StoreReadOnly, "this server only reads: name the primary one"),
    (pg.InvalidSqlStatementName, StoreUnusable, _POOLER),
    (pg.DuplicatePreparedStatement, StoreUnusable, _POOLER),
    (pg.DiskFull, StoreFull, "make room on the disk of the server"),
    (pg.OperationalError, StoreUnavailable, "try again later"),
    (pg.InterfaceError, StoreUnavailable, "try again later"),
    (pg.InternalError, StoreUnusable, "see the log of the server"),
    (pg.ProgrammingError, StoreUnusable, "its tables are not those of sitq"),
)
_PASSING: Final = (
    *(pg.DeadlockDetected, pg.SerializationFailure, pg.LockNotAvailable, pg.QueryCanceled),
    *(pg.AdminShutdown, pg.CrashShutdown, pg.CannotConnectNow, pg.IdleInTransactionSessionTimeout),
)


def check_schema(value: object) -> str:
    """A name of a schema: small letters, digits and ``_``, up to 40 characters.

    Raises:
        InvalidOption: it is none.
    """
    if isinstance(value, str) and _SCHEMA.fullmatch(value) and not value.startswith("pg_"):
        return value
    raise InvalidOption(
        "schema must be made of small letters, digits and '_', up to 40 characters, and not begin "
        f"with a digit or 'pg_': {shown(value)}"
    )


class _Bytes(Loader):
    """An id as its 16 bytes."""

    format = Format.BINARY

    def load(self, data: Any) -> bytes:
        return bytes(data)


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that is given up when the server says nothing for too long."""

    limit: float = 30.0
    """Seconds without an answer; `math.inf` where one is not to be expected."""
    born: float = 0.0
    """When it was made, by the monotonic clock."""

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        try:
            return super().wait(_bounded(gen, self.limit), *args, **options)
        except NoAnswer:
            self.close()
            raise


class NoAnswer(pg.OperationalError):
    """The server said nothing for too long; ends a wait from inside."""


def _bounded(gen: Generator[Any, Any, T], limit: float) -> Generator[Any, Any, T]:
    """Waits as ``gen`` does, up to the limit. psycopg asks it ten times a second at least."""
    last = time.monotonic()
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            now = time.monotonic()
            if ready:
                last = now
            elif now - last > limit:
                raise NoAnswer(f"the server has not answered for {limit:g} seconds")
            wanted = gen.send(ready)
    except StopIteration as end:
        return cast("T", end.value)


class Server:
    """Where the tasks are, and how connections to it are made.

    Args:
        url: as libpq takes it, ``postgresql://user@host:port/database``.
        schema: the schema with the tables; checked.
        limit: seconds without an answer after which a connection is given up.
        poll: where a pooler stands between, that gives each transaction another session, and
            nothing can be listened to: seconds between two looks of who waits. Else None.
    """

    def __init__(self, url: str, schema: str, limit: float, poll: float | None) -> None:
        self.schema = schema
        self.limit = limit
        self.pooled: bool = poll is not None
        self.poll: float = poll or 0.0
        self.conninfo: str = _conninfo(url, limit)
        self.place: str = self._described()

    def _described(self) -> str:
        """Names it without its password."""
        of = conninfo_to_dict(self.conninfo)
        where = f"{of.get('host', '')}:{of.get('port') or 5432}"
        return f"postgresql://{where}/{of.get('dbname') or of.get('user') or ''}#{self.schema}"

    @property
    def options(self) -> dict[str, Any]:
        """How psycopg is to connect."""
        return {
            "autocommit": True,
            "prepare_threshold": None if self.pooled else 3,
        }

    def connect(self) -> Connection:
        """A connection of one's own. Raises what psycopg raises."""
        connection = Connection.connect(self.conninfo, **self.options)
        try:
            self.configure(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def configure(self, connection: psycopg.Connection[Any]) -> None:
        """Make a new connection one of ours."""
        assert isinstance(connection, Connection)
        connection.limit = self.limit
        connection.born = time.monotonic()
        adapted(connection)
        if not self.pooled:
            connection.prepared_max = 200
            connection.execute(as_query(_PLANS.replace("{limit}", str(max(1, round(self.limit))))))

    @contextmanager
    def judged(self) -> Generator[None]:
        """Errors of the server that leave the block are translated."""
        try:
            yield
        except psycopg.Error as error:
            raise_as_ours(error, self.place)


def adapted(
    context: psycopg.Connection[Any] | psycopg.AsyncCursor[Any] | psycopg.Cursor[Any],
) -> None:
    """Have it read ids as bytes."""
    context.adapters.register_loader(_UUID_OID, _Bytes)


def as_query(text: str) -> Any:
    """A text of ours as psycopg takes it: it is never made of anything from outside."""
    return cast("Any", text)


def is_passing(error: BaseException, connection: Connection | None) -> bool:
    """Whether the same may succeed on another connection, or a moment later."""
    lost = connection is None or connection.closed
    return isinstance(error, _PASSING) or (
        lost and isinstance(error, (pg.OperationalError, pg.InterfaceError))
    )


def raise_as_ours(error: psycopg.Error, place: str) -> NoReturn:
    """Raise what the store says of an error.

    Raises:
        StoreError: it is the store's fault. It is raised as it is if it is the caller's.
    """
    if type(error) is pg.OperationalError and _REFUSED.search(str(error)):
        what = str(error).strip()
        raise StoreUnusable(f"{place}: {what}: check the address, name and password") from error
    for kind, ours, advice in _ADVICE:
        if isinstance(error, kind):
            what = error.diag.message_primary or str(error).strip()
            raise ours(f"{place}: {what}: {advice}") from error
    raise error


def _conninfo(url: object, limit: float) -> str:
    """The address with bounds for what may hang, where it does not set them itself."""
    if not isinstance(url, str) or not url.startswith(("postgresql://", "postgres://")):
        raise InvalidOption(f"url must begin with postgresql://: {shown(_without_password(url))}")
    try:
        given = conninfo_to_dict(url)
        seconds = max(2, min(round(limit), 10))
        bounds: dict[str, Any] = {
            "connect_timeout": seconds,
            "keepalives_idle": seconds,
            "keepalives_interval": max(1, seconds // 3),
            "keepalives_count": 3,
            "tcp_user_timeout": max(1, round(limit)) * 1000,
            "application_name": "sitq",
            "client_encoding": "utf8",
        }
        return make_conninfo(url, **{name: of for name, of in bounds.items() if name not in given})
    except psycopg.ProgrammingError as error:
        raise InvalidOption(f"url cannot be read: {_without_parts(error)}") from None


def _without_parts(error: psycopg.ProgrammingError) -> str:
    """What libpq says of an address, without what it quotes of it: a password may be there.

    The name of a parameter stays.
    """
    return re.sub(r'(?<!parameter: )".*"|".*\W.*"', "...", str(error).strip(), flags=re.DOTALL)


def _without_password(url: object) -> object:
    return re.sub(r"//[^@/]*@", "//...@", url) if isinstance(url, str) else url

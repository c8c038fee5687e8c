"""Makes the tables, and brings older ones up to date: once, though many come at the same time."""

from __future__ import annotations

from typing import Any

from psycopg import IsolationLevel

from sitq.backends.postgres.connect import Connection, Server, as_query
from sitq.backends.postgres.queries import RUNGS, rung
from sitq.backends.postgres.recovery import lock_number
from sitq.errors import StoreUnusable, StoreVersionError

__all__ = ["prepared"]

_OLDEST = 130_000
_MEANT = "SELECT value FROM sitq.meta WHERE name = %s"
# Not to_regclass, which may answer from what the connection remembers: that it was not there before
# another program had made it, and this one waited for that.
_SCHEMA_IS_THERE = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = %s"
_TABLE_IS_THERE = (
    "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = %s AND c.relname = 'meta'"
)
_SET_VERSION = "UPDATE sitq.meta SET value = %s WHERE name = 'version'"


def prepared(connection: Connection, server: Server) -> str:
    """Make the schema what it is to be, where it is not. Returns the name of the store.

    Where it is already nothing is locked, and no right to make tables is needed.

    Raises:
        StoreVersionError: a newer sitq made it.
        StoreUnusable: the server is too old, or the tables are not those of sitq.
    """
    if connection.info.server_version < _OLDEST:
        raise StoreUnusable(f"{server.place}: sitq needs PostgreSQL 13 or newer")
    if _version(connection, server) < len(RUNGS):
        connection.isolation_level = IsolationLevel.READ_COMMITTED
        with connection.transaction():
            lock = lock_number(server.schema, "migrate")
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (lock,))
            _climb(connection, server)
    store = _row(connection, _MEANT.replace("sitq", server.schema), ("store",))
    if store is None:
        raise StoreUnusable(f"{server.place}: its table meta does not name the store; restore it")
    return store


def _climb(connection: Connection, server: Server) -> None:
    found = _version(connection, server)
    if not found and _row(connection, _SCHEMA_IS_THERE, (server.schema,)) is None:
        connection.execute(as_query(f"CREATE SCHEMA {server.schema}"))
    for number in range(found, len(RUNGS)):
        connection.execute(as_query(rung(number, server.schema)))
        query = as_query(_SET_VERSION.replace("sitq", server.schema))
        connection.execute(query, (str(number + 1),))


def _version(connection: Connection, server: Server) -> int:
    """The version of the schema that is there; 0 if there is none."""
    if _row(connection, _TABLE_IS_THERE, (server.schema,)) is None:
        return 0
    found = _row(connection, _MEANT.replace("sitq", server.schema), ("version",))
    if not isinstance(found, str) or not found.isdecimal():
        raise StoreUnusable(f"{server.place}: its table meta names no version; restore it")
    if int(found) > len(RUNGS):
        raise StoreVersionError(
            f"{server.place} has schema version {found}, this sitq knows {len(RUNGS)}: upgrade sitq"
        )
    return int(found)


def _row(connection: Connection, query: str, values: tuple[Any, ...]) -> Any:
    row = connection.execute(as_query(query), values).fetchone()
    return None if row is None else row[0]

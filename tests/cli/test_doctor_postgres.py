"""``sitq doctor`` on a server."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from sitq.backends.base import Backend, Sweep
from sitq.cli.doctor import postgres

from ..former import fill as fill_former
from ..former import first_version
from ..postgres import server_url, url_with
from .conftest import Sitq
from .stored import Stored, fill, on_backend
from .test_doctor import levels, whats


@pytest.fixture
def url(schema: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a store that is not there yet."""
    url = server_url()
    url += f"{'&' if '?' in url else '?'}schema={schema}"
    monkeypatch.setenv("SITQ_BACKEND", url)
    return url


@pytest.fixture
def by_hand(schema: str) -> Iterator[psycopg.Connection]:
    """A connection whose search path leads to the tables."""
    with psycopg.connect(server_url(), options=f"-c search_path={schema}") as connection:
        connection.autocommit = True
        yield connection


def test_a_store_in_order(sitq: Sitq, url: str) -> None:
    fill(url)
    done = sitq("doctor", "--json")
    assert (done.code, done.err) == (0, "")
    assert {one["level"] for one in done.json} == {"ok"}
    assert [one["about"] for one in done.json] == [
        *("server", "version", "schema", "clocks", "dead rows", "connections", "notices"),
        *("rights", "workers", "waiting tasks", "clock"),
    ]


def test_it_makes_nothing_and_migrates_nothing(
    sitq: Sitq, url: str, schema: str, by_hand: psycopg.Connection
) -> None:
    done = sitq("doctor", "--json")
    assert (done.code, levels(done, "schema")) == (1, ["problem"])
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = %s"
    assert by_hand.execute(tables, (schema,)).fetchone() == (0,)
    with first_version():
        on_backend(url, fill_former)
    done = sitq("doctor", "--json")
    assert (done.code, levels(done, "schema")) == (0, ["warning"])
    assert by_hand.execute("SELECT value FROM meta WHERE name = 'version'").fetchone() == ("1",)


def test_a_newer_schema(sitq: Sitq, url: str, by_hand: psycopg.Connection) -> None:
    sitq("migrate")
    by_hand.execute("UPDATE meta SET value = '99' WHERE name = 'version'")
    done = sitq("doctor", "--json")
    assert (done.code, levels(done, "schema")) == (1, ["problem"])


def test_no_server(sitq: Sitq) -> None:
    done = sitq("doctor", "--json", "-b", "postgresql://nobody:secret@127.0.0.1:1/nothing")
    assert (done.code, levels(done, "server")) == (1, ["problem"])
    assert "127.0.0.1:1/nothing" in whats(done, "server")
    assert "secret" not in done.out + done.err


def test_a_role_that_lacks_rights(
    sitq: Sitq, url: str, schema: str, by_hand: psycopg.Connection
) -> None:
    sitq("migrate")
    role = f"{schema}_role"
    by_hand.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    try:
        its = url_with(user=role, password="secret")
        its += f"{'&' if '?' in its else '?'}schema={schema}"
        done = sitq("doctor", "--json", "-b", its)
        assert (done.code, levels(done, "schema")) == (1, ["problem"])
        assert "permission denied" in whats(done, "schema")
        by_hand.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        by_hand.execute(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {schema} TO {role}")
        done = sitq("doctor", "--json", "-b", its)
        assert (done.code, levels(done, "rights")) == (1, ["problem"])
        lacking = whats(done, "rights")
        assert "DELETE on task," in lacking
        assert "USAGE on ended" in lacking
        assert "INSERT" not in lacking
    finally:
        by_hand.execute(f"DROP OWNED BY {role}")
        by_hand.execute(f"DROP ROLE {role}")


def test_long_transactions(
    sitq: Sitq, url: str, by_hand: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    sitq("migrate")
    monkeypatch.setattr(postgres, "LONG", 0.0)
    with by_hand.transaction():
        [(pid,)] = by_hand.execute("SELECT pg_backend_pid()")
        done = sitq("doctor", "--json")
    assert done.code == 0
    assert f"process {pid} " in whats(done, "long transactions")


def test_dead_rows(
    sitq: Sitq, url: str, by_hand: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(url)
    by_hand.execute("ALTER TABLE task SET (autovacuum_enabled = false)")
    for _ in range(3):
        by_hand.execute("UPDATE task SET priority = 1 - priority")
    monkeypatch.setattr(postgres, "DEAD", 1)
    by_hand.execute("SELECT pg_stat_force_next_flush()")
    done = sitq("doctor", "--json")
    assert levels(done, "dead rows") == ["warning", "ok"]
    assert "task has " in whats(done, "dead rows")


def test_clocks_that_disagree(sitq: Sitq, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sitq("migrate")
    for apart, level, code in ((5.0, "warning", 0), (99.0, "problem", 1)):
        with monkeypatch.context() as patch:
            here = postgres.time.time
            patch.setattr(postgres.time, "time", lambda here=here, by=apart: here() + by)
            done = sitq("doctor", "--json")
        assert (done.code, levels(done, "clocks")) == (code, [level])


def test_a_pooler(sitq: Sitq, url: str) -> None:
    sitq("migrate")
    done = sitq("doctor", "--json", "-b", f"{url}&listen=false")
    assert whats(done, "notices") == "none are listened to (listen=False)"


def test_notices_that_do_not_come(sitq: Sitq, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sitq("migrate")
    monkeypatch.setattr(postgres, "PATIENCE", 0.0)
    monkeypatch.setattr(psycopg.Connection, "notifies", lambda *_, **__: iter(()))
    assert levels(sitq("doctor", "--json"), "notices") == ["warning"]


def test_a_server_that_only_reads(sitq: Sitq, url: str) -> None:
    sitq("migrate")
    only = f"{url}&options=-c%20default_transaction_read_only%3Don"
    done = sitq("doctor", "--json", "-b", only)
    assert (done.code, levels(done, "writing")) == (1, ["problem"])


def test_what_nobody_knows_or_serves(sitq: Sitq, everywhere: Stored) -> None:
    on_backend(everywhere.place, _sweep)
    done = sitq("doctor", "--json")
    assert "no worker knows shop.sell, of 2 pending tasks" in whats(done, "unknown functions")
    assert whats(done, "waiting tasks") == "1 are due"


async def _sweep(backend: Backend) -> None:
    [worker] = await backend.workers()
    await backend.recover(worker.id, Sweep(3, 600.0, unknown=("shop.sell",)))

"""Databases with tables, views and triggers that are named like those of sitq, and are not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from sitq import Registry, SQLiteBackend, State, TaskQueue, Worker
from sitq.errors import StoreUnusable

pytestmark = pytest.mark.anyio
registry = Registry()
ENDLESS = (
    "WITH RECURSIVE n (x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n) "
    "SELECT 'version' AS name, max(x) AS value FROM n"
)
NEW: dict[str, str] = {
    "table of another": "CREATE TABLE sitq_task (seq INTEGER PRIMARY KEY, id BLOB)",
    "meta of another": "CREATE TABLE sitq_meta (name, value)",
    "version of text": "CREATE TABLE sitq_meta (name, value); INSERT INTO sitq_meta VALUES "
    "('version', 'one')",
    "version of nothing": "CREATE TABLE sitq_meta (name, value); INSERT INTO sitq_meta VALUES "
    "('version', NULL)",
    "only a version": "CREATE TABLE sitq_meta (name, value); INSERT INTO sitq_meta VALUES "
    "('version', 1)",
    "endless view": f"CREATE VIEW sitq_meta AS {ENDLESS}",
    "view as a task": "CREATE VIEW sitq_task AS SELECT 1 AS seq",
    "index of another": "CREATE TABLE t (a); CREATE INDEX sitq_ready ON t (a)",
    "trigger of another": "CREATE TABLE t (a); CREATE TRIGGER sitq_ready AFTER INSERT ON t BEGIN "
    "DELETE FROM t; END",
}
OLD: dict[str, str] = {
    "fewer columns": "DROP INDEX sitq_unknown; ALTER TABLE sitq_task DROP COLUMN unknown_since",
    "a renamed column": "ALTER TABLE sitq_worker RENAME COLUMN beat TO beaten",
    "no table of bodies": "DROP TABLE sitq_big",
    "a view of bodies": "DROP TABLE sitq_big; CREATE VIEW sitq_big AS SELECT 1 seq, 0 part, 2 body",
    "no index": "DROP INDEX sitq_live_key",
    "a trigger in place of an index": "DROP INDEX sitq_held; CREATE TRIGGER sitq_held AFTER INSERT "
    "ON sitq_task BEGIN DELETE FROM sitq_task; END",
    "a trigger": "CREATE TRIGGER a AFTER UPDATE ON sitq_task BEGIN DELETE FROM sitq_big; END",
    "a trigger that refuses": "CREATE TRIGGER no BEFORE INSERT ON sitq_task BEGIN "
    "SELECT RAISE(ABORT, 'no'); END",
}
HARMLESS = (
    "ALTER TABLE sitq_task ADD COLUMN note TEXT; CREATE TABLE mine (a); "
    "CREATE INDEX mine_too ON sitq_task (note); CREATE VIEW sitq_view AS SELECT 1; "
    "CREATE TRIGGER on_mine AFTER INSERT ON mine BEGIN DELETE FROM mine; END"
)


@registry.task(name="echo")
async def echo(value: int) -> int:
    return value


def change(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as stranger:
        stranger.executescript(script)


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.db"
    async with SQLiteBackend(path):
        pass
    return path


def tables(path: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as stranger:
        return stranger.execute("SELECT type, name, sql FROM sqlite_master ORDER BY 2").fetchall()


async def check_refused(path: Path) -> None:
    before = tables(path)
    for use in (SQLiteBackend(path).open, SQLiteBackend(path).counts):
        with pytest.raises(StoreUnusable) as refused:
            await use()
        assert str(path) in str(refused.value) or "sitq_meta" in str(refused.value)
    with pytest.raises(StoreUnusable):
        async with Worker(SQLiteBackend(path), registry=registry):
            await anyio.sleep_forever()
    assert tables(path) == before


@pytest.mark.parametrize("script", NEW.values(), ids=NEW.keys())
async def test_a_foreign_database_is_refused(tmp_path: Path, script: str) -> None:
    path = tmp_path / "tasks.db"
    change(path, f"PRAGMA journal_mode = WAL; {script}")
    with anyio.fail_after(30):
        await check_refused(path)


@pytest.mark.parametrize("script", OLD.values(), ids=OLD.keys())
async def test_a_changed_database_is_refused(path: Path, script: str) -> None:
    change(path, script)
    await check_refused(path)


async def test_what_is_added_does_no_harm(path: Path) -> None:
    change(path, HARMLESS)
    backend = SQLiteBackend(path)
    async with TaskQueue(backend) as queue, Worker(backend, registry=registry):
        assert await (await queue.enqueue(echo, 1)).result(30) == 1
        assert (await queue.counts())[State.SUCCEEDED] == 1


@pytest.mark.parametrize(
    "script",
    [
        "DELETE FROM sitq_meta WHERE name = 'ended'",
        "UPDATE sitq_meta SET value = 9223372036854775807 WHERE name = 'ended'",
    ],
    ids=["gone", "full"],
)
async def test_a_lost_counter_stops_the_worker(path: Path, script: str) -> None:
    backend = SQLiteBackend(path)
    async with TaskQueue(backend) as queue:
        change(path, script)
        handle = await queue.enqueue(echo, 1)
        with pytest.raises(StoreUnusable, match="counter of ended tasks"):
            await handle.cancel()
        with pytest.raises(StoreUnusable, match="counter of ended tasks"), anyio.fail_after(30):
            async with Worker(backend, registry=registry):
                await anyio.sleep_forever()

"""Opening databases of other versions, by many at once, by some that die, and beside strangers."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Timer

import anyio
import pytest

from sitq import Registry, SQLiteBackend, State, TaskQueue, Worker
from sitq.backends.base import Filter
from sitq.backends.sqlite import migrate
from sitq.errors import StoreUnusable, StoreVersionError

from ..former import EACH, fill, first_version
from .disk import Disk, Kind
from .migrators import FOUND, LATER, MIGRATED

CHILD = Path(__file__).with_name("migrators.py")
TASKS = EACH * len(State) + 1
NEWEST = len(migrate.RUNGS) + 1
registry = Registry()


@registry.task(name="nothing")
async def nothing() -> None:
    """Does nothing."""


async def make(path: Path) -> dict[bytes, State]:
    with first_version():
        async with SQLiteBackend(path) as backend:
            return await fill(backend)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    anyio.run(make, disk.path)
    yield disk
    disk.close()


def look(path: Path) -> tuple[int, int]:
    """The version of a database that is whole, and how many tasks have what the last one adds."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM sitq_task").fetchone() == (TASKS,)
        (version,) = connection.execute(
            "SELECT value FROM sitq_meta WHERE name = 'version'"
        ).fetchone()
        has_notes = connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE name IN ('sitq_note', 'sitq_by_note')"
        ).fetchone() == (2,)
        notes = "SELECT count(*) FROM sitq_task JOIN sitq_note USING (seq) WHERE note = text"
        return version, connection.execute(notes).fetchone()[0] if has_notes else 0


@contextmanager
def migrators(disk: Disk) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", str(CHILD), str(disk.path)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=disk.environment(recorded=True),
    )
    limit = Timer(60, process.kill)
    limit.start()
    with process:
        try:
            yield process
        finally:
            process.kill()
            limit.cancel()


def opened_by(process: subprocess.Popen[str], count: int) -> list[int]:
    """How so many processes ended that opened the database together."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{count}\n")
    process.stdin.flush()
    return sorted(map(int, process.stdout.readline().split()))


def test_one_of_many_migrates(disk: Disk) -> None:
    assert look(disk.path) == (1, 0)
    with migrators(disk) as process:
        assert opened_by(process, 8) == [MIGRATED] + [FOUND] * 7
        assert look(disk.path) == (NEWEST, TASKS)
        assert opened_by(process, 2) == [FOUND] * 2


def test_a_migration_that_is_killed_leaves_the_old_version(disk: Disk) -> None:
    """Killed before each of its writes in turn."""
    killed = 0
    with migrators(disk) as process:
        disk.control.kill_at = disk.control.writes + 1
        while opened_by(process, 1) == [-signal.SIGKILL] and look(disk.path) == (1, 0):
            killed += 1
            disk.control.kill_at = disk.control.writes + killed + 1
    assert look(disk.path) == (NEWEST, TASKS)
    assert killed > 10


def test_a_newer_schema_is_refused_without_a_write(disk: Disk) -> None:
    with closing(sqlite3.connect(disk.path)) as connection, connection:
        connection.execute("UPDATE sitq_meta SET value = 99 WHERE name = 'version'")
    before = disk.path.read_bytes()
    with migrators(disk) as process:
        assert opened_by(process, 2) == [1, 1]
    assert disk.path.read_bytes() == before
    assert not [one for one in disk.records() if one.kind in (Kind.WRITE, Kind.TRUNCATE)]
    with pytest.raises(StoreVersionError, match=f"schema version 99, this sitq knows {NEWEST - 1}"):
        anyio.run(SQLiteBackend(disk.path).open)


def test_a_rung_that_fails_leaves_the_old_version(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = LATER + "INSERT INTO sitq_nowhere VALUES (1);\n"
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "RUNGS", (*migrate.RUNGS, broken))
        with pytest.raises(StoreUnusable, match="sitq_nowhere"):
            anyio.run(SQLiteBackend(disk.path).open)
    assert look(disk.path) == (1, 0)


@pytest.mark.anyio
async def test_tasks_of_the_first_version_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    states = await make(path)
    with closing(sqlite3.connect(path)) as stranger:
        before = stranger.execute("SELECT * FROM sitq_task ORDER BY seq").fetchall()
        async with SQLiteBackend(path) as backend:
            found = await backend.find(Filter(), after=0, limit=TASKS + 1)
            assert {row.id: row.state for row in found} == states
            assert await TaskQueue(backend).purge() == 3 * EACH
            assert stranger.execute("SELECT count(*) FROM sitq_big").fetchone() == (2 * EACH + 1,)
        after = stranger.execute("SELECT * FROM sitq_task ORDER BY seq").fetchall()
    assert [row for row in before if row in after] == after


@pytest.mark.anyio
async def test_beside_the_tables_of_a_user(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as app:
        with app:
            app.execute("PRAGMA user_version = 7")
            app.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, version TEXT)")
            app.execute("INSERT INTO orders (version) VALUES ('first')")
        async with SQLiteBackend(path) as backend, Worker(backend, registry=registry):
            handle = await TaskQueue(backend).enqueue(nothing)
            with app:
                app.execute("INSERT INTO orders (version) VALUES ('second')")
            await handle.result(timeout=20)
        assert app.execute("SELECT version FROM orders").fetchall() == [("first",), ("second",)]
        assert app.execute("PRAGMA user_version").fetchone() == (7,)
        assert app.execute("PRAGMA integrity_check").fetchone() == ("ok",)

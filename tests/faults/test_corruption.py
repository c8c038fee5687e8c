"""Damaged files are refused aloud, for good, and workers stop with the error."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from sitq import Registry, SQLiteBackend, State, TaskQueue, Worker
from sitq.errors import StoreUnusable

from .damage import PAGE, check

pytestmark = pytest.mark.anyio
registry = Registry()
OVERWRITES = """
import os, sys
os.pwrite(os.open(sys.argv[1], os.O_WRONLY), b"?" * 4096, int(sys.argv[2]))
"""
CUTS = "import os, sys; os.truncate(sys.argv[1], int(sys.argv[2]))"


@registry.task(name="nothing")
async def nothing() -> None:
    """Does nothing."""


async def filled(path: Path, tasks: int = 10) -> None:
    async with SQLiteBackend(path) as backend:
        await TaskQueue(backend).enqueue_many([nothing.call() for _ in range(tasks)])


def change(path: Path, program: str, place: int) -> None:
    """By another process: who closes any descriptor of a database drops its own locks on it."""
    command = [sys.executable, "-I", "-S", "-c", program, str(path), str(place)]
    subprocess.run(command, check=True, timeout=20)


def overwrite(path: Path, table: str) -> None:
    """Put nonsense where the entries of a table or index begin."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    (page,) = connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
    ).fetchone()
    connection.close()
    change(path, OVERWRITES, (page - 1) * PAGE)


def repair(path: Path, whole: bytes) -> None:
    """Put a copy in the place of the database and of what is left of its log."""
    for end in ("-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)
    path.write_bytes(whole)


def touch(path: Path) -> None:
    """Commit something, so that others forget what they have read before."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("PRAGMA user_version = 1")
    connection.close()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "header": lambda body: b"\xff" * 100 + body[100:],
    "cut in a page": lambda body: body[: 3 * PAGE + 100],
    "cut in the header": lambda body: body[:50],
    "schema": lambda body: body[:100] + b"\xff" * (PAGE - 100) + body[PAGE:],
    "text": lambda body: b"To whom it may concern\n" * (len(body) // 23),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
async def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "tasks.db"
    await filled(path)
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    with pytest.raises(StoreUnusable, match=r"damaged|not an SQLite|restore"):
        async with SQLiteBackend(path) as backend, Worker(backend, registry=registry):
            await anyio.sleep(10)
    path.write_bytes(whole)
    async with SQLiteBackend(path) as backend:
        assert (await backend.counts())[State.PENDING] == 10


async def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    path.touch()
    await filled(path)
    async with SQLiteBackend(path) as backend:
        assert (await backend.counts())[State.PENDING] == 10


async def test_damage_is_remembered(tmp_path: Path) -> None:
    """A damaged index does not keep rows from being inserted: they would be lost later."""
    path = tmp_path / "tasks.db"
    await filled(path)
    whole = path.read_bytes()
    overwrite(path, "sitq_ended")
    backend = SQLiteBackend(path)
    queue = TaskQueue(backend)
    async with backend:
        await queue.enqueue(nothing)
        with pytest.raises(StoreUnusable, match="malformed"):
            await queue.purge()
        verbs: list[Callable[[], Any]] = [
            lambda: queue.enqueue(nothing),
            queue.counts,
            lambda: queue.find(limit=1),
            Worker(backend, registry=registry).run,
        ]
        for verb in verbs:
            with pytest.raises(StoreUnusable, match="make a new backend"):
                await verb()
    with pytest.raises(StoreUnusable, match="make a new backend"):
        await backend.open()
    repair(path, whole)
    async with SQLiteBackend(path) as repaired:
        assert (await repaired.counts())[State.PENDING] == 10


@pytest.mark.parametrize("table", ["sitq_task", "sitq_ready", "sitq_meta", None])
async def test_damage_stops_a_running_worker(tmp_path: Path, table: str | None) -> None:
    path = tmp_path / "tasks.db"
    await filled(path, 0)
    with anyio.fail_after(20), pytest.raises(StoreUnusable, match="malformed"):
        async with SQLiteBackend(path) as backend:
            handle = await TaskQueue(backend).enqueue(nothing.using(delay=3600))
            async with Worker(backend, registry=registry, poll_interval=0.05, lease=0.3):
                if table is None:
                    change(path, CUTS, PAGE)
                else:
                    overwrite(path, table)
                touch(path)
                await handle.result()


async def test_random_damage_is_refused_or_does_no_harm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    ends = await check(range(8))
    assert ends.total() == 8

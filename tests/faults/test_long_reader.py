"""A reader of an old state keeps the log from being cut off: work goes on, and that is told."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import pytest

from sitq import Registry, SQLiteBackend, TaskQueue, Worker
from sitq.backends.sqlite import connect

pytestmark = pytest.mark.anyio
registry = Registry()
KIB = 1024


@registry.task(name="echo")
async def echo(value: bytes) -> bytes:
    return value


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connect.BLOCKED_LOG == 64 * KIB * KIB
    monkeypatch.setattr(connect, "LARGE_LOG", 64 * KIB)
    monkeypatch.setattr(connect, "BLOCKED_LOG", 512 * KIB)


@contextmanager
def reader(path: Path) -> Iterator[None]:
    """Somebody who looks at the tasks for as long as the block takes."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT seq FROM sitq_meta, sitq_task")
        assert rows.fetchone() is not None
        yield


async def sweep(backend: SQLiteBackend) -> None:
    await backend._opened.writer.run(backend._database.checkpoint)


def size(log: Path) -> int:
    return log.stat().st_size


async def cut(backend: SQLiteBackend, log: Path, most: int) -> None:
    """Sweep until the log is no larger: a glance of sitq's own can be in the way of one sweep."""
    with anyio.fail_after(20):
        await sweep(backend)
        while size(log) > most:
            await sweep(backend)


async def test_work_goes_on_and_it_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tasks.db"
    log = tmp_path / "tasks.db-wal"

    def warnings() -> list[str]:
        return [r.getMessage() for r in caplog.records if "tasks.db-wal" in r.getMessage()]

    async with SQLiteBackend(path, synchronous="NORMAL") as backend:
        queue = TaskQueue(backend)
        async with Worker(backend, registry=registry, lease=600):
            for told in (1, 2):
                await (await queue.enqueue(echo, b"first")).result(timeout=20)
                with reader(path):
                    for _ in range(12):
                        handle = await queue.enqueue(echo, bytes(50 * KIB))
                        assert await handle.result(timeout=20) == bytes(50 * KIB)
                        await sweep(backend)
                    assert size(log) > 512 * KIB
                    assert len(warnings()) == told
                await cut(backend, log, 0)
    assert "tasks.db-wal has 0 MiB" in warnings()[0]
    assert "end that reader" in warnings()[0]


async def test_without_a_reader_the_log_is_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with SQLiteBackend(tmp_path / "tasks.db", synchronous="NORMAL") as backend:
        for _ in range(30):
            await TaskQueue(backend).enqueue(echo, bytes(50 * KIB))
            await cut(backend, tmp_path / "tasks.db-wal", 64 * KIB)
    assert not [r for r in caplog.records if "tasks.db-wal" in r.getMessage()]

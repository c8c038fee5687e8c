"""Tasks of a file are in PostgreSQL afterwards, all of them, as they were."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from sitq import PostgresBackend, Retry, SQLiteBackend, TaskQueue, Worker
from sitq.errors import InvalidOption, StoreUnusable, TaskFailed, UsageError, WrongState
from sitq.model import NewGroup, WorkerRecord
from sitq.transfer import transfer

from ..former import first_version
from ..groups import functions as f
from ..postgres import backend_at, server_url

pytestmark = pytest.mark.anyio

PROGRESS = """
INSERT INTO sitq_progress
SELECT seq, seq / 3.0, CASE WHEN seq % 2 THEN 9.5 END, 'at "' || seq || '"', enqueued FROM sitq_task
UNION ALL SELECT 1000, 1, NULL, 'of no task', 5.0
"""


async def filled(path: Path) -> list[object]:
    """A file with tasks of every kind; the ids of all."""
    async with SQLiteBackend(path) as backend:
        queue = TaskQueue(backend)
        f.queues[:] = [queue]
        done = [
            await queue.enqueue(f.echo, "x" * 5_000),
            await queue.enqueue(f.fail, "no"),
            await queue.enqueue(f.total, 2, 2),
        ]
        async with Worker(backend, registry=f.registry):
            for handle in done:
                with suppress(TaskFailed):
                    await handle.result(20)
        pending = [
            await queue.enqueue(f.echo.using(key="k", priority=5, timeout=7.5), "large" * 1_000),
            await queue.enqueue(f.echo.using(delay=3600, retry=Retry(attempts=4)), 2),
            await queue.enqueue(f.echo, 'quotes "\\ {} NULL'),
        ]
        await backend._write(lambda c: c.execute(PROGRESS))
        gone = await queue.enqueue(f.echo, 3)
        await gone.cancel()
        return [handle.id for handle in (*done, *pending, gone)]


async def everything(backend: SQLiteBackend | PostgresBackend) -> list[object]:
    queue = TaskQueue(backend)
    tasks = await queue.find(limit=100)
    trees = [await queue.tree(task.id) for task in tasks]
    return [tasks, trees, [await queue.get_result(task.id) for task in tasks]]


async def test_all_tasks_are_carried_over(tmp_path: Path, schema: str) -> None:
    path = tmp_path / "tasks.db"
    ids = await filled(path)
    count = await anyio.to_thread.run_sync(lambda: transfer(path, server_url(), schema=schema))
    async with SQLiteBackend(path) as before, backend_at(schema) as after:
        assert await everything(before) == await everything(after)
        tasks = await TaskQueue(after).find(limit=100)
        assert count == len(tasks) > len(ids)
        queue = TaskQueue(after)
        f.queues[:] = [queue]
        async with Worker(after, registry=f.registry):
            assert await queue.handle(ids[3]).result(20) == "large" * 1_000
            assert await queue.handle(ids[5]).result(20) == 'quotes "\\ {} NULL'
            assert await (await queue.enqueue(f.total, 1, 2)).result(20) == 2
        newest = (await queue.find(after=tasks[-1], limit=10))[0]
        assert newest.seq > tasks[-1].seq


async def test_a_file_of_the_first_version(tmp_path: Path, schema: str) -> None:
    path = tmp_path / "tasks.db"
    with first_version():
        async with TaskQueue(SQLiteBackend(path)) as queue:
            handle = await queue.enqueue(f.echo, 1)
    assert transfer(path, server_url(), schema=schema) == 1
    async with TaskQueue(backend_at(schema)) as queue:
        assert await queue.get(handle) is not None


async def test_a_file_in_use_is_left_alone(tmp_path: Path, schema: str) -> None:
    path = tmp_path / "tasks.db"
    async with SQLiteBackend(path) as backend:
        worker = await backend.hire(WorkerRecord("here", 1, None, 10, 15.0))
        await backend.open_group(NewGroup(None, owner=worker))
        with pytest.raises(WrongState, match="1 leases and 0 running"):
            transfer(path, server_url(), schema=schema)


async def test_a_schema_with_tasks_is_left_alone(tmp_path: Path, schema: str) -> None:
    path = tmp_path / "tasks.db"
    await filled(path)
    assert transfer(path, server_url(), schema=schema)
    async with backend_at(schema) as after:
        before = await after.counts()
        with pytest.raises(UsageError, match="has tasks already"):
            transfer(path, server_url(), schema=schema)
        assert await after.counts() == before


async def test_a_damaged_row_stops_it(tmp_path: Path, schema: str) -> None:
    path = tmp_path / "tasks.db"
    await filled(path)
    async with SQLiteBackend(path) as backend:
        await backend._write(
            lambda c: (
                c.execute("PRAGMA ignore_check_constraints = ON")
                and c.execute("UPDATE sitq_task SET priority = 'high' WHERE seq = 2")
            )
        )
    with pytest.raises(StoreUnusable, match="high"):
        transfer(path, server_url(), schema=schema)
    async with backend_at(schema) as after:
        assert sum((await after.counts()).values()) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "usage"),
        (("missing.db", "postgresql:///x"), 1, "no file missing.db"),
        ((__file__, "postgresql://127.0.0.1:1/x"), 1, "no database"),
        ((__file__, "mysql://x"), 1, "must begin with postgresql://"),
    ],
)
def test_the_command_says_what_is_wrong(
    tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    command = [sys.executable, "-m", "sitq.transfer", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_what_can_be_named() -> None:
    with pytest.raises(InvalidOption):
        transfer(__file__, "postgresql:///x", schema="Bad; DROP")

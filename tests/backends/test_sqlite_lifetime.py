"""Backends that are closed while somebody waits, dropped, or never closed."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from pathlib import Path
from random import Random

import anyio
import anyio.lowlevel
import pytest

from sitq import Registry, SQLiteBackend, TaskQueue
from sitq.backends.base import Sweep, Wanted
from sitq.calls import new_ids
from sitq.errors import NotOpen, StoreReplaced
from sitq.lifecycle import settle
from sitq.model import NewTask, Outcome, OutcomeKind, Reservation, WorkerRecord
from sitq.retry import Retry

pytestmark = pytest.mark.anyio
registry = Registry()


@registry.task(name="nothing")
async def nothing() -> None:
    """Never run here."""


@registry.task(name="big")
async def big(text: str) -> None:
    """Never run here."""


@pytest.mark.parametrize("path", [":memory:", "tasks.db"])
async def test_closing_ends_the_waits(path: str, tmp_path: Path) -> None:
    backend = SQLiteBackend(path if path == ":memory:" else tmp_path / path)
    await backend.open()
    handle = await TaskQueue(backend).enqueue(nothing)
    waiting = anyio.Event()

    async def wait() -> None:
        waiting.set()
        with pytest.raises(NotOpen):
            await handle.result()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await waiting.wait()
            await anyio.sleep(0.05)
            await backend.close()


@pytest.mark.parametrize("rows", [900, 6_000])  # the mailbox takes 20,000 of them
async def test_closing_commits_what_was_submitted(tmp_path: Path, rows: int) -> None:
    backend = SQLiteBackend(tmp_path / "tasks.db")
    submitted: list[int] = []

    async def submit(number: int) -> None:
        submitted.append(number)
        await TaskQueue(backend).enqueue_many([nothing.call() for _ in range(rows)])

    async with anyio.create_task_group() as group, backend:
        for number in range(5):  # more than one transaction takes
            group.start_soon(submit, number)
        while len(submitted) < 5:
            await anyio.lowlevel.checkpoint()
    async with backend:
        assert sum((await backend.counts()).values()) == 5 * rows


async def test_closing_beside_an_operation_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    backend = SQLiteBackend(path)
    await backend.open()

    async def submit() -> None:
        with pytest.raises(StoreReplaced):
            await TaskQueue(backend).enqueue(nothing)

    async with anyio.create_task_group() as group:
        path.unlink()
        group.start_soon(submit)
        while backend._opened is None or not backend._opened.commit._busy:
            await anyio.lowlevel.checkpoint()
        await backend.close()  # in the same transaction; it leaves no threads


@pytest.mark.parametrize("path", [":memory:", "tasks.db"])
def test_a_dropped_backend_leaves_no_threads(path: str, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    backend: SQLiteBackend | None = SQLiteBackend(path if path == ":memory:" else tmp_path / path)

    async def use() -> None:
        assert backend is not None
        await TaskQueue(backend).enqueue(nothing)

    asyncio.run(use())
    backend = None
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("size", [10, 5_000])
async def test_a_task_that_goes_back_keeps_its_last_error(tmp_path: Path, size: int) -> None:
    async with SQLiteBackend(tmp_path / "tasks.db") as backend:
        [id] = new_ids(0.0, 1)
        await backend.insert([NewTask(id, "f", "q", 0, 0.0, None, None, None, None, b"", 0.0)])
        worker = await backend.hire(WorkerRecord("host", 1, None, 1, 15.0))
        policy = Retry(attempts=5, base=0)

        async def run(outcome: Outcome) -> bytes | None:
            taken: list[Reservation] = []
            await backend.reserve(worker, Wanted(1, None), taken.extend)
            change = settle(taken[0], policy, outcome, 0.0, Random(0))
            assert change is not None
            await backend.settle(worker, [change])
            row = await backend.get(id)
            assert row is not None
            return row.error

        first, second = b"1" * size, b"2" * (5_010 - size)
        assert await run(Outcome(OutcomeKind.FAILED, error=first)) == first
        assert await run(Outcome(OutcomeKind.RELEASED)) == first
        assert await run(Outcome(OutcomeKind.FAILED, error=second)) == second
        assert await run(Outcome(OutcomeKind.RELEASED)) == second
        assert await run(Outcome(OutcomeKind.SUCCEEDED, value=b"v")) is None


async def test_a_removed_log_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with SQLiteBackend(path) as backend:
        await TaskQueue(backend).enqueue(nothing)
        (tmp_path / "tasks.db-wal").unlink()
        with pytest.raises(StoreReplaced, match="-wal was deleted or replaced"):
            await TaskQueue(backend).enqueue(nothing)


async def test_a_sweep_cuts_off_a_large_log(tmp_path: Path) -> None:
    log = tmp_path / "tasks.db-wal"
    async with SQLiteBackend(tmp_path / "tasks.db", synchronous="NORMAL") as backend:
        queue = TaskQueue(backend)
        reader = sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sitq_task").fetchall()  # keeps the log from restarting
        for _ in range(12):
            await queue.enqueue_many([big.call("x" * 900_000)])
        assert log.stat().st_size > 8 * 1024 * 1024
        reader.close()
        worker = await backend.hire(WorkerRecord("host", 1, None, 1, 15.0))
        await backend.recover(worker, Sweep(3, 300.0))
        assert log.stat().st_size < 1024 * 1024


async def test_a_closed_backend_can_be_opened_again(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "tasks.db")
    for _ in range(3):  # each time with a new log: the last to close deletes it
        async with backend:
            await TaskQueue(backend).enqueue(nothing)
    async with backend:
        assert sum((await backend.counts()).values()) == 3


async def test_who_waits_learns_that_the_file_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with SQLiteBackend(path) as backend:
        handle = await TaskQueue(backend).enqueue(nothing)

        async def wait() -> None:
            with pytest.raises(StoreReplaced):
                await handle.result()

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await anyio.sleep(0.05)
                path.unlink()
    assert not path.exists()

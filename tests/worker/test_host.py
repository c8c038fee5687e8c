"""What the code around a worker meets when it, the worker, or both end badly."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from sitq import SQLiteBackend, State, TaskQueue, Worker
from sitq.errors import StoreReplaced

from . import functions as f
from .test_run import until, worker

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _clean() -> None:
    f.noted.clear()


@contextmanager
def replaced(path: Path) -> Iterator[None]:
    """The file is gone when the block begins."""
    path.rename(path.with_name("moved"))
    yield


def on(path: Path) -> Worker:
    return Worker(SQLiteBackend(path), registry=f.registry, poll_interval=0.1, lease=0.3)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_nursery_of_trio_in_the_block(tmp_path: Path) -> None:
    import trio

    with anyio.fail_after(10), pytest.raises(StoreReplaced):
        async with on(tmp_path / "tasks.db"), trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            with replaced(tmp_path / "tasks.db"):
                await trio.sleep_forever()


async def test_a_group_with_an_error_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyError("mine")

    with anyio.fail_after(10), pytest.raises(ExceptionGroup) as caught:
        async with on(tmp_path / "tasks.db"), anyio.create_task_group() as group:
            group.start_soon(fails_when_cancelled)
            with replaced(tmp_path / "tasks.db"):
                await anyio.sleep_forever()
    assert [type(error) for error in caught.value.exceptions] == [KeyError]
    assert "StoreReplaced" in caplog.text


async def test_the_workers_error_is_logged_when_the_block_raises(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(10), pytest.raises(KeyError):
        async with on(tmp_path / "tasks.db"):
            try:
                with replaced(tmp_path / "tasks.db"):
                    await anyio.sleep_forever()
            finally:
                raise KeyError("mine")
    [broke] = [r for r in caplog.records if r.levelno == logging.CRITICAL]
    assert "StoreReplaced" in broke.getMessage()


async def test_an_error_comes_out_of_a_cancelled_scope(backend: SQLiteBackend) -> None:
    with pytest.raises(ValueError, match="mine"):
        with anyio.CancelScope() as scope:
            async with worker(backend):
                scope.cancel()
                raise ValueError("mine")
    await anyio.lowlevel.checkpoint()  # the scopes of this task are whole


async def test_a_lock_at_the_end_is_left_to_the_lease(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tasks.db"
    async with SQLiteBackend(path, busy_limit=0.1) as backend:
        stranger = sqlite3.connect(path, isolation_level=None)
        try:
            async with worker(backend):
                stranger.execute("BEGIN IMMEDIATE")
        finally:
            stranger.close()
        assert len(await backend.workers()) == 1
    assert "could not end the lease" in caplog.text


def test_a_loop_that_ends_under_a_worker_gives_back(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"

    async def forgets_to_stop() -> None:
        backend = SQLiteBackend(path)
        await worker(backend).start()
        await TaskQueue(backend).enqueue(f.sleep, 30)
        await until(lambda: f.noted == ["started"])

    async def look() -> None:
        async with SQLiteBackend(path) as backend:
            assert await backend.workers() == []
            [task] = await TaskQueue(backend).find()
            assert (task.state, task.attempts, task.crashes) == (State.PENDING, 0, 0)

    asyncio.run(forgets_to_stop())
    anyio.run(look)


async def beside(backend: SQLiteBackend, queue: TaskQueue, name: str) -> str:
    """Run a rude task beside an innocent one. Returns how the rude one ended."""
    async with worker(backend):
        innocent = await queue.enqueue(f.sleep, 0.1)
        await until(lambda: f.noted == ["started"])
        function = f.registry.get(name)
        assert function is not None
        rude = await queue.enqueue(function)
        result = await queue.get_result(rude, timeout=5)
        assert await innocent.result(5) == "slept"
    assert f.noted == ["started"], "the innocent one was run again"
    assert result is not None
    return result.state if result.error is None else result.error.type


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("exits_generator", "builtins.GeneratorExit"),
        ("stops_iteration", "builtins.StopIteration"),
        ("strange_class", "functions.Strange"),
        ("cancels_itself", "succeeded"),
    ],
)
async def test_rude_ends_harm_nobody_else(
    backend: SQLiteBackend, queue: TaskQueue, name: str, how: str
) -> None:
    assert how in await beside(backend, queue, name)

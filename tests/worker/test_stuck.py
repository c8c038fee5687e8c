"""Runs that do not end although they were told to: reported, spared, and waited for."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

import anyio
import pytest

from sitq import SQLiteBackend, State, TaskQueue
from sitq.errors import TaskFailed

from . import functions as f
from .test_run import until, worker

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _clean() -> None:
    f.noted.clear()
    f.release.clear()


@contextmanager
def released() -> Generator[None]:
    """Nothing goes on swallowing after the block: a worker waits for its runs for ever."""
    try:
        yield
    finally:
        for event in f.release:
            event.set()


async def until_stuck(queue: TaskQueue, number: int) -> None:
    with anyio.fail_after(10):
        while [one.stuck for one in await queue.workers()] != [number]:
            await anyio.sleep(0.01)


async def test_who_swallows_cancellation_is_reported(
    backend: SQLiteBackend, queue: TaskQueue, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker(backend, grace=0.05, lease=0.3, max_concurrency=2):
        with released():
            handle = await queue.enqueue(f.swallows)
            await until(lambda: f.noted == [0])
            assert await handle.cancel()
            await until_stuck(queue, 1)
            swallowed = f.noted[0]
            assert swallowed > 0
            # Others run beside it, and it is left in peace: no loop of ever new cancellations.
            assert await (await queue.enqueue(f.echo, 1)).result(5) == 1
            await anyio.sleep(0.05)
            assert f.noted == [swallowed]
        assert await handle.result(5) == "ended all the same"
        await until_stuck(queue, 0)
    stuck = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(stuck) == 1
    assert all(part in stuck[0] for part in ("stuck", handle.id.hex, "swallows", "cancel"))


async def test_who_swallows_a_timeout_is_reported(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend, grace=0.05, lease=0.3):
        with released():
            handle = await queue.enqueue(f.swallows_its_timeout)
            await until_stuck(queue, 1)
        with pytest.raises(TaskFailed, match="TaskTimedOut"):
            await handle.result(5)


async def test_a_stop_waits_for_who_is_stuck(backend: SQLiteBackend, queue: TaskQueue) -> None:
    one = worker(backend, grace=0.05, lease=0.3)
    await one.start()
    async with anyio.create_task_group() as group:
        with released():
            handle = await queue.enqueue(f.swallows)
            await until(lambda: f.noted == [0])
            group.start_soon(one.stop)
            await until_stuck(queue, 1)
            assert await handle.status() is State.RUNNING
    assert await handle.result(5) == "ended all the same"


async def test_a_thread_learns_of_its_timeout(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        handle = await queue.enqueue(f.asks_whether_cancelled)
        await handle.result(5)  # it ended well, if late: a returned value counts
    assert f.noted == ["started", "told"]


async def test_check_cancelled_works_in_threads(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        handle = await queue.enqueue(f.checks_cancelled)
        await until(lambda: f.noted == ["started"])
        assert await handle.cancel()
        result = await queue.get_result(handle, timeout=5)
    assert result is not None
    assert result.state is State.CANCELLED

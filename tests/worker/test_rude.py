"""What broke workers once: each of these hung, span, or lost something."""

from __future__ import annotations

import os
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from sitq import Registry, Retry, SQLiteBackend, State, TaskQueue, Worker, lifecycle
from sitq.errors import NotOpen, StoreUnusable, TaskFailed, UsageError

from . import functions as f
from .test_run import until, worker

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _clean() -> None:
    f.noted.clear()


async def test_cancelled_while_it_stops(backend: SQLiteBackend, queue: TaskQueue) -> None:
    handle = await queue.enqueue(f.sleep, 30)
    with anyio.fail_after(5):
        with anyio.move_on_after(0.3) as scope:
            async with worker(backend, grace=20):
                await until(lambda: f.noted == ["started"])
        assert scope.cancelled_caught
    assert await handle.status() is State.PENDING
    await anyio.lowlevel.checkpoint()  # the scopes of this task are whole


async def test_cancelled_group_while_it_stops(backend: SQLiteBackend, queue: TaskQueue) -> None:
    handle = await queue.enqueue(f.sleep, 30)

    async def work() -> None:
        async with worker(backend, grace=20):
            await until(lambda: f.noted == ["started"])

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await until(lambda: f.noted == ["started"])
            await anyio.sleep(0.1)
            group.cancel_scope.cancel()
    assert await handle.status() is State.PENDING


class RudeGroup(ExceptionGroup[Exception]):
    exceptions = property(lambda self: 1 / 0)  # type: ignore[assignment]


class Liar(Exception):
    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("who asks?")


rude = Registry()


@rude.task(name="raises_rudely", retry=Retry(attempts=2, base=0))
async def raises_rudely(kind: str) -> None:
    raise RudeGroup("rude", [ValueError()]) if kind == "group" else Liar()


@rude.task(name="sleep")
async def sleep(seconds: float) -> None:
    await anyio.sleep(seconds)


@rude.task(name="stubborn_for_a_while", retry=Retry(attempts=5, base=60), timeout=0.05)
async def stubborn_for_a_while() -> None:
    f.noted.append("started")
    try:
        await anyio.sleep(30)
    finally:
        f.noted.append("cleaning")
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.1)


@pytest.mark.parametrize("kind", ["group", "liar"])
async def test_an_exception_that_cannot_be_looked_at(
    backend: SQLiteBackend, queue: TaskQueue, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Worker(backend, registry=rude):
        neighbour = await queue.enqueue(sleep, 0.1)
        with pytest.raises(TaskFailed):
            await (await queue.enqueue(raises_rudely, kind)).result(5)
        await neighbour.result(5)
    assert "broke" not in caplog.text


async def test_a_timeout_that_came_first_counts(backend: SQLiteBackend, queue: TaskQueue) -> None:
    handle = await queue.enqueue(stubborn_for_a_while)
    async with Worker(backend, registry=rude, grace=0):
        await until(lambda: f.noted == ["started", "cleaning"])
    task = await handle.get()
    assert task is not None
    assert (task.state, task.attempts) == (State.PENDING, 1)
    assert task.error is not None
    assert task.error.type == "sitq.errors.TaskTimedOut"


async def test_all_tasks_of_an_unknown_function_fail_in_the_end(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    handles = [await queue.enqueue(f.echo, number) for number in range(20)]
    async with Worker(
        backend, registry=Registry(), max_concurrency=4, lease=0.3, unknown_after=0.3
    ):
        handles.append(await queue.enqueue(f.echo, 20))
        for handle in handles:
            with pytest.raises(TaskFailed, match="UnknownTask"):
                await handle.result(10)


async def test_a_worker_that_knows_a_function_keeps_its_backlog_alive(
    backend: SQLiteBackend, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "UNKNOWN_BACKOFF", (0.2, 60.0))
    handles = [await queue.enqueue(f.sleep, 0.1) for _ in range(9)]  # longer than unknown_after
    async with (
        Worker(backend, registry=Registry(), lease=0.15, unknown_after=0.5),
        worker(backend, max_concurrency=1, lease=0.15, unknown_after=0.5),
    ):
        for handle in handles:
            assert await handle.result(20) == "slept"


returns: dict[int, int] = {}


@rude.task(name="again", retry=Retry(attempts=1000, base=0, jitter=False))
async def again(number: int) -> None:
    returns[number] = returns.get(number, 0) + 1
    if returns[number] < 4:
        raise ValueError("again")
    await anyio.sleep(30)


async def test_a_task_that_comes_back_at_once_is_still_held(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    # Its settling and its next reservation can be one transaction, answered in either order.
    returns.clear()
    async with Worker(backend, registry=rude, max_concurrency=100, grace=0):
        handles = await queue.enqueue_many([again.call(number) for number in range(100)])
        await until(lambda: len(returns) == 100 and min(returns.values()) == 4)
        for handle in handles:
            await handle.cancel()
        for handle in handles:
            assert await queue.get_result(handle, 5) is not None
            assert await handle.status() is State.CANCELLED


async def test_many_expired_tasks_fail_in_one_sweep(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    late = f.echo.using(deadline=datetime.now(UTC) - timedelta(seconds=1))
    handles = await queue.enqueue_many([late.call(1) for _ in range(1_700)])
    async with Worker(backend, registry=f.registry, lease=60):
        with pytest.raises(TaskFailed, match="DeadlinePassed"):
            await handles[-1].result(10)


async def test_busy_threads_of_the_program_do_not_hold_up_the_stop(tmp_path: Path) -> None:
    gate = f.gate
    gate.clear()
    limiter = anyio.to_thread.current_default_thread_limiter()
    async with anyio.create_task_group() as group:
        for _ in range(int(limiter.total_tokens)):
            group.start_soon(anyio.to_thread.run_sync, gate.wait, 20)
        await anyio.wait_all_tasks_blocked()
        try:
            with anyio.fail_after(5):
                async with worker(SQLiteBackend(tmp_path / "tasks.db")):
                    pass
        finally:
            gate.set()


async def test_tables_that_are_not_ours(tmp_path: Path) -> None:
    for statement in ("CREATE TABLE sitq_meta (a)", "CREATE TABLE sitq_meta (name, value)"):
        path = tmp_path / f"{len(statement)}.db"
        stranger = sqlite3.connect(path)
        with stranger:
            stranger.execute(statement)
        stranger.close()
        with pytest.raises(StoreUnusable):
            await SQLiteBackend(path).counts()


async def test_a_table_that_vanished_stops_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with anyio.fail_after(10), pytest.raises(StoreUnusable):
        async with worker(SQLiteBackend(path), lease=0.3):
            stranger = sqlite3.connect(path)
            with stranger:
                stranger.execute("DROP TABLE sitq_task")
            stranger.close()
            await anyio.sleep_forever()


async def test_a_relative_path_survives_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with SQLiteBackend("tasks.db") as backend:
        queue = TaskQueue(backend)
        await queue.enqueue(f.echo, 1)
        (tmp_path / "below").mkdir()
        os.chdir(tmp_path / "below")
        await queue.enqueue(f.echo, 2)
        assert (await queue.counts())[State.PENDING] == 2


async def test_a_worker_that_stops_leaves_the_queue_open() -> None:
    backend = SQLiteBackend(":memory:")
    queue = TaskQueue(backend)
    handle = await queue.enqueue(f.echo, 1)
    one = worker(backend)
    await one.start()
    await handle.result(5)
    await one.stop()
    assert await handle.result(5) == 1
    await backend.close()
    with pytest.raises(NotOpen):
        await queue.counts()


async def test_two_starts(backend: SQLiteBackend) -> None:
    one = worker(backend)
    first, second = one.start(), one.start()
    await first
    with pytest.raises(UsageError):
        await second
    await one.stop()

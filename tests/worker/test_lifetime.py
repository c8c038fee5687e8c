"""Starting and stopping: hosted, structured, in the background; grace; recovery of dead workers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest

from sitq import SQLiteBackend, State, TaskQueue, Worker
from sitq.errors import InvalidOption, StoreUnusable, UsageError
from sitq.model import WorkerRecord

from . import functions as f
from .test_run import until, worker

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _clean() -> None:
    f.noted.clear()
    f.gate.clear()


async def test_run_reports_its_start(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with anyio.create_task_group() as group:
        one = worker(backend)
        await group.start(one.run)
        assert await (await queue.enqueue(f.echo, 1)).result(5) == 1
        with pytest.raises(UsageError):
            await one.run()
        await one.stop()


async def test_start_and_stop_from_other_tasks(backend: SQLiteBackend, queue: TaskQueue) -> None:
    workers = [worker(backend, max_concurrency=2) for _ in range(4)]
    async with anyio.create_task_group() as group:
        for one in workers:
            group.start_soon(one.start)
    handles = [await queue.enqueue(f.add, number) for number in range(20)]
    assert [await handle.result(5) for handle in handles] == list(range(1, 21))
    async with anyio.create_task_group() as group:
        for one in workers:
            group.start_soon(one.stop)
    await workers[0].start()  # and again
    assert await (await queue.enqueue(f.echo, 2)).result(5) == 2
    await workers[0].stop()
    await workers[0].stop()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_stop_before_the_start_wins(backend: SQLiteBackend) -> None:
    one = worker(backend)
    starting = asyncio.create_task(one.start())
    await one.stop()
    await starting
    await one.stop()
    counts = await backend.counts()
    assert counts[State.RUNNING] == 0


async def test_a_background_worker_is_outside_the_callers_scope(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    one = worker(backend)
    with anyio.CancelScope() as scope:
        await one.start()
        scope.cancel()
        await anyio.sleep(1)
    assert await (await queue.enqueue(f.echo, 3)).result(5) == 3
    await one.stop()


async def test_graceful_stop_lets_tasks_finish(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend, max_concurrency=1):
        first = await queue.enqueue(f.sleep, 0.2)
        second = await queue.enqueue(f.echo, 2)
        await until(lambda: f.noted == ["started"])
    assert await first.status() is State.SUCCEEDED
    assert await second.status() is State.PENDING


async def test_after_the_grace_tasks_go_back_uncounted(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend, grace=0.05):
        handle = await queue.enqueue(f.sleep, 30)
        await until(lambda: f.noted == ["started"])
    task = await handle.get()
    assert task is not None
    assert (task.state, task.attempts, task.crashes) == (State.PENDING, 0, 0)
    assert f.noted == ["started", "cancelled"]


async def test_a_thread_keeps_its_task(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with anyio.create_task_group() as group:
        one = worker(backend, grace=0.01)
        await one.start()
        handle = await queue.enqueue(f.blocked)
        await until(lambda: f.noted == ["started"])
        group.start_soon(one.stop)
        await anyio.sleep(0.1)
        assert await handle.status() is State.RUNNING
        f.gate.set()
    assert await handle.result(1) == "unblocked"


async def test_cancellation_of_the_host_gives_back_at_once(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    handle = await queue.enqueue(f.sleep, 30)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            await group.start(worker(backend).run)
            await until(lambda: f.noted == ["started"])
            group.cancel_scope.cancel()
    task = await handle.get()
    assert task is not None
    assert (task.state, task.attempts) == (State.PENDING, 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_native_cancellation_of_the_host_gives_back(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    handle = await queue.enqueue(f.sleep, 30)
    running = asyncio.create_task(worker(backend).run())
    await until(lambda: f.noted == ["started"])
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await handle.status() is State.PENDING


async def test_the_bodys_exception_comes_out_bare(backend: SQLiteBackend) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with worker(backend):
            raise KeyError("mine")


async def test_a_worker_that_broke_cancels_the_body(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database" * 100)
    backend = SQLiteBackend(tmp_path / "notes.txt")
    with anyio.fail_after(5), pytest.raises(StoreUnusable, match="not an SQLite database"):
        async with Worker(backend):
            await anyio.sleep_forever()
    with pytest.raises(StoreUnusable):
        await Worker(backend).run()
    with pytest.raises(StoreUnusable):
        await Worker(backend).start()


async def test_a_deleted_file_ends_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with anyio.fail_after(10), pytest.raises(StoreUnusable, match="deleted or replaced"):
        async with Worker(SQLiteBackend(path), registry=f.registry, poll_interval=0.1, lease=0.3):
            path.unlink()
            await anyio.sleep_forever()


async def test_what_a_dead_worker_held_comes_back(backend: SQLiteBackend, queue: TaskQueue) -> None:
    handle = await queue.enqueue(f.echo, "back")
    dead = await backend.hire(WorkerRecord("elsewhere", 1, None, 1, 0.3))
    taken: list[object] = []
    from sitq.backends.base import Wanted

    await backend.reserve(dead, Wanted(1, None), taken.extend)
    assert len(taken) == 1
    async with worker(backend, lease=0.3):
        assert await handle.result(10) == "back"
    task = await handle.get()
    assert task is not None
    assert task.attempts == 0


async def test_queues_and_slots(backend: SQLiteBackend, queue: TaskQueue) -> None:
    io = await queue.enqueue(f.echo.using(queue="io"), 1)
    cpu = await queue.enqueue(f.echo.using(queue="cpu"), 2)
    async with worker(backend, queues=["io"]):
        assert await io.result(5) == 1
        assert await cpu.status() is State.PENDING
    async with worker(backend, max_concurrency=3):
        handles = await queue.enqueue_many([f.busy.call() for _ in range(9)])
        assert max([await handle.result(5) for handle in handles]) == 3


async def test_delayed_tasks_run_when_due(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with Worker(backend, registry=f.registry, poll_interval=30):
        late = await queue.enqueue(f.echo.using(delay=0.3), "late")
        with pytest.raises(TimeoutError):
            await late.result(0.05)
        assert await late.result(5) == "late"
    task = await late.get()
    assert task is not None
    assert task.started_at is not None
    assert task.started_at >= task.run_at


async def test_old_results_are_pruned(backend: SQLiteBackend, queue: TaskQueue) -> None:
    handle = await queue.enqueue(f.echo, 1)
    kept = await queue.enqueue(f.echo.using(delay=60), 1)
    async with worker(backend, retention=0, lease=0.3):
        await until_gone(handle)
    assert await kept.status() is State.PENDING


async def until_gone(handle: object) -> None:
    with anyio.fail_after(5):
        while await handle.get() is not None:  # type: ignore[attr-defined]
            await anyio.sleep(0.01)


@pytest.mark.parametrize(
    "options",
    [
        {"max_concurrency": 0},
        {"max_concurrency": True},
        {"max_concurrency": 1.5},
        {"poll_interval": 0},
        {"poll_interval": float("nan")},
        {"grace": -1},
        {"grace": float("inf")},
        {"lease": 0.01},
        {"crash_limit": 0},
        {"retention": -1},
        {"queues": "io"},
        {"queues": []},
        {"queues": ["../x"]},
        {"queues": 5},
        {"backend": "tasks.db"},
        {"serializer": 5},
    ],
)
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOption):
        Worker(**{"backend": SQLiteBackend(":memory:"), **options})  # type: ignore[arg-type]


async def test_a_worker_that_ends_its_lease_has_not_lost_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = SQLiteBackend(tmp_path / "tasks.db")
    dismiss = backend.dismiss

    async def slowly(worker: int) -> None:
        await dismiss(worker)
        await anyio.sleep(0.2)  # of beats, were there any

    backend.dismiss = slowly  # type: ignore[method-assign]
    async with worker(backend, lease=0.1):
        pass
    assert "lease lost" not in caplog.text

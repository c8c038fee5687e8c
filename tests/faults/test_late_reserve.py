"""What a reserve brings when nobody waits for it any more: it is run, or given back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager, closing
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from sitq import SQLiteBackend, TaskQueue, Worker
from sitq.backends.base import Wanted
from sitq.model import Reservation

from ..worker import functions as f
from .checkpoints import PATIENCE, nothing_leaked, until
from .stage import held

pytestmark = pytest.mark.anyio

idle_or_busy = pytest.mark.parametrize("busy", [False, True])


@pytest.fixture
def path(quick_folder: Path) -> Path:
    f.noted.clear()
    return quick_folder / f"{uuid4()}.db"


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> anyio.Event:
    """When it is set, the first task group of a worker breaks."""
    event = anyio.Event()
    broken: list[bool] = []

    async def duty(_: object) -> None:
        await event.wait()
        if not broken:
            broken.append(True)
            raise ArithmeticError("a duty is broken")
        await anyio.sleep_forever()

    monkeypatch.setattr(import_module("sitq.worker.serve"), "watch_cancels", duty)
    return event


class LateBackend(SQLiteBackend):
    """Of its reserves one brings tasks late: when the tasks are there, but nothing else goes on.

    Args:
        path: of the database.
        before: how many tasks are brought before.
    """

    def __init__(self, path: Path, before: int) -> None:
        super().__init__(path, synchronous="NORMAL")
        self.before = before
        self.stored = anyio.Event()
        """To be set when the tasks are there."""
        self.late = anyio.Event()
        """Is set when that reserve has begun."""
        self.gate = ExitStack()
        """To be closed for its transaction to run."""

    def is_asked_for_more(self) -> bool:
        """Whether somebody waits for a transaction behind that one."""
        return self._opened is not None and bool(self._opened.commit._mailbox)

    async def reserve(
        self, worker: int, wanted: Wanted, deliver: Callable[[list[Reservation]], None]
    ) -> float | None:
        if not self.before and not self.late.is_set():
            opened = self._opened
            assert opened is not None
            await self.stored.wait()
            await until(lambda: not opened.commit._busy)
            self.gate.enter_context(held(opened.writer))
            self.late.set()

        def count(tasks: list[Reservation]) -> None:
            self.before = max(0, self.before - len(tasks))
            deliver(tasks)

        return await super().reserve(worker, wanted, count)


@asynccontextmanager
async def late_reserve(path: Path, *, busy: bool) -> AsyncGenerator[tuple[Worker, LateBackend]]:
    """A worker in the background with a free slot, into which a reserve brings a task.

    That happens when the block ends. The other slot of a worker that is busy is taken.
    """
    backend = LateBackend(path, before=int(busy))
    queue = TaskQueue(backend)
    worker = Worker(
        backend, registry=f.registry, poll_interval=60, grace=0, max_concurrency=1 + busy
    )
    await worker.start()
    if busy:
        await queue.enqueue(f.sleep, 300)
        await until(lambda: f.noted == ["started"])
    await queue.enqueue_many([f.echo.call(number) for number in range(3)])
    backend.stored.set()
    await backend.late.wait()
    await anyio.wait_all_tasks_blocked()  # it is on its way
    yield worker, backend
    backend.gate.close()


@idle_or_busy
async def test_the_task_group_breaks(
    path: Path, busy: bool, breaks: anyio.Event, caplog: pytest.LogCaptureFixture
) -> None:
    async with nothing_leaked():
        async with late_reserve(path, busy=busy) as (worker, backend):
            breaks.set()
            await anyio.wait_all_tasks_blocked()
        queue = TaskQueue(backend)
        tasks = await queue.find(name="echo")
        handles = [queue.handle(task.id) for task in tasks]
        assert [await handle.result(PATIENCE) for handle in handles] == [0, 1, 2]
        await worker.stop()
    assert caplog.text.count("task group broke") == 1


async def test_a_stop_does_not_wait_for_it(path: Path) -> None:
    """Grace and cancellation begin at once, however long the store stands still."""
    async with nothing_leaked(), late_reserve(path, busy=True) as (worker, backend):
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(worker.stop)
                await until(lambda: f.noted == ["started", "cancelled"])
                backend.gate.close()
    assert _rows(path) == [(0, 0, 0)] * 4


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@idle_or_busy
async def test_the_tasks_of_the_worker_are_cancelled_natively(path: Path, busy: bool) -> None:
    """As `asyncio.run` does at its end."""
    others = asyncio.all_tasks()
    async with nothing_leaked():
        async with late_reserve(path, busy=busy) as (worker, backend):
            for task in asyncio.all_tasks() - others:
                task.cancel()
            await anyio.wait_all_tasks_blocked()
            await until(backend.is_asked_for_more)
        await worker.stop()
    assert _rows(path) == [(0, 0, 0)] * (3 + busy)


def _rows(path: Path) -> list[tuple[int, int, int]]:
    """State, attempts and crashes of every task, when no worker is left."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id FROM sitq_worker").fetchall() == []
        return connection.execute("SELECT state, attempts, crashes FROM sitq_task").fetchall()

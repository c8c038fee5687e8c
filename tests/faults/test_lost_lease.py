"""A worker whose lease is taken ends what it runs, and begins nothing that comes too late."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from sitq import Registry, SQLiteBackend, TaskQueue, Worker
from sitq.backends.base import Sweep, Wanted
from sitq.model import Reservation, WorkerRecord

pytestmark = pytest.mark.anyio

registry = Registry()
runs: list[str] = []


@registry.task(name="notes")
async def notes() -> str:
    runs.append("began")
    return "done"


@registry.task(name="stays_once")
async def stays_once() -> str:
    runs.append("began")
    if len(runs) == 1:
        await anyio.sleep_forever()
    return "done"


class Noticed(logging.Handler):
    """Waits until a worker has noticed that its lease is lost."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.event = anyio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "lease lost: its tasks were given back" in record.getMessage():
            self.event.set()


class LosesTheLease(SQLiteBackend):
    """Between its first reservation and the answer the tasks are taken, and that is noticed."""

    def __init__(self, path: Path, noticed: anyio.Event) -> None:
        super().__init__(path)
        self._path = path
        self._noticed = noticed

    async def reserve(
        self, worker: int, wanted: Wanted, deliver: Callable[[list[Reservation]], None]
    ) -> float | None:
        taken: list[Reservation] = []
        due = await super().reserve(worker, wanted, taken.extend)
        if taken and not self._noticed.is_set():
            await _take_from(worker, self._path)
            await self._noticed.wait()
        deliver(taken)
        return due


async def _take_from(worker: int, path: Path) -> None:
    """Let somebody find that the worker has been silent for long, and take what it holds."""
    silent = "UPDATE sitq_worker SET beat = 0, suspect = 0, suspect_boot = boot WHERE id = ?"
    async with SQLiteBackend(path) as backend:
        other = await backend.hire(WorkerRecord("here", 1, None, 1, 60.0))
        with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as stranger:
            crashed = 0
            while not crashed:  # a beat can come in between
                stranger.execute(silent, (worker,))
                crashed = len((await backend.recover(other, Sweep(3, 60.0))).crashed)
        await backend.dismiss(other)


class SeesBeats(SQLiteBackend):
    """Notes, when a worker ends its lease, whether somebody still renews it."""

    beating: bool | None = None

    async def dismiss(self, worker: int) -> None:
        self.beating = any(thread.name == "sitq-heartbeat" for thread in threading.enumerate())
        await super().dismiss(worker)


@pytest.fixture(autouse=True)
def _clean() -> None:
    runs.clear()


async def test_what_runs_when_the_lease_is_lost_is_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with SQLiteBackend(path) as backend:
        handle = await TaskQueue(backend).enqueue(stays_once)
        async with Worker(backend, registry=registry, lease=0.3, poll_interval=0.2, grace=0):
            with anyio.fail_after(20):
                while not runs:
                    await anyio.sleep(0.005)
            [worker] = await backend.workers()
            await _take_from(worker.id, path)
            assert await handle.result(20) == "done"
            assert [one.id > worker.id for one in await backend.workers()] == [True]
    assert runs == ["began", "began"]


async def test_what_arrives_after_the_lease_was_lost_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Noticed()
    monkeypatch.setattr(logging.getLogger("sitq.worker"), "handlers", [handler])
    async with LosesTheLease(tmp_path / "tasks.db", handler.event) as backend:
        handle = await TaskQueue(backend).enqueue(notes)
        async with Worker(backend, registry=registry, lease=0.3, poll_interval=0.2):
            assert await handle.result(20) == "done"
            task = await handle.get()
    assert runs == ["began"], "it ran without a lease too"
    assert task is not None
    assert (task.attempts, task.crashes) == (0, 0)  # a success forgets the crash


async def test_nobody_renews_a_lease_that_its_worker_ends(tmp_path: Path) -> None:
    # Such a beat finds that the lease is gone, and would report it lost.
    async with SeesBeats(tmp_path / "tasks.db") as backend, Worker(backend, registry=registry):
        pass
    assert backend.beating is False

"""Many processes on one file, a stranger who keeps its lock, clocks that jump, full threads.

``contention.py`` is the long form of the first test: it gives figures and checks bounds on them.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from sitq import Registry, SQLiteBackend, State, TaskQueue, Worker
from sitq.errors import StoreUnavailable

from . import workers
from .contention import contend

PATIENCE = 60.0
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_processes_share_one_file(tmp_path: Path, synchronous: str) -> None:
    figures = contend(tmp_path, synchronous, processes=4, seconds=0.3)
    assert figures.broken == []
    assert figures.fewest_enqueued > 0
    assert figures.succeeded > 0


class Workers:
    """A process that runs ``workers.py``."""

    def __init__(self, path: Path, loop: str, workers_each: int, lease: float) -> None:
        command = [sys.executable, "-P", workers.__file__, str(path), loop]
        self._process = subprocess.Popen(
            [*command, str(workers_each), str(lease)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def told(self, answer: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{answer}\n"

    def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        self.told("done")

    def stop(self) -> str:
        """Let it end. Returns what it logged."""
        _, log = self._process.communicate(timeout=PATIENCE)
        assert self._process.returncode == 0, log
        return log

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def processes(path: Path, count: int, workers_each: int, lease: float) -> Generator[list[Workers]]:
    loops = ("asyncio", "trio")
    made = [Workers(path, loops[n % 2], workers_each, lease) for n in range(count)]
    try:
        for process in made:
            process.told("ready")
        yield made
    finally:
        for process in made:
            process.kill()


def look(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.01)


async def all_have_beaten(path: Path, since: float) -> None:
    """Wait until every worker has beaten after a moment of the monotonic clock."""
    await until(lambda: look(path, "SELECT min(beat) FROM sitq_worker") > [(since,)])


@pytest.mark.anyio
@on_asyncio
async def test_a_stranger_who_keeps_the_lock_makes_nobody_look_dead(path: Path) -> None:
    lease = 1.5
    async with TaskQueue(SQLiteBackend(path)) as queue:
        with processes(path, 4, 8, lease) as made:
            handles = await queue.enqueue_many([workers.waits.call() for _ in range(32)])
            await until(lambda: look(path, "SELECT sum(state = 1) FROM sitq_task") == [(32,)])
            before = look(path, "SELECT id FROM sitq_worker")
            with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
                stranger.execute("BEGIN IMMEDIATE")
                await anyio.sleep(1.3 * lease)  # what the stranger does
                released = time.monotonic()
            await all_have_beaten(path, released)  # from then on no suspicion is left
            assert look(path, "SELECT id FROM sitq_worker") == before
            for process in made:
                process.tell("go")
            for handle in handles:
                assert await handle.result(PATIENCE) == "went on"
            later = await queue.enqueue_many([workers.nothing.call() for _ in range(100)])
            for handle in later:
                await handle.result(PATIENCE)
            for process in made:
                assert "lease lost" not in process.stop()
        assert look(path, "SELECT DISTINCT fence, crashes, attempts FROM sitq_task") == [(1, 0, 0)]


registry = Registry()
ran: list[int] = []
gate: list[anyio.Event] = []


@registry.task(name="gated")
async def gated(number: int) -> int:
    ran.append(number)
    await gate[0].wait()
    return number


@pytest.mark.anyio
async def test_outcomes_are_kept_while_a_stranger_keeps_the_lock(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Longer than busy_limit: callers are told, and the worker settles when the lock is free again.
    ran.clear()
    gate[:] = [anyio.Event()]
    backend = SQLiteBackend(path, busy_limit=0.1)
    async with TaskQueue(backend) as queue, Worker(backend, registry=registry):
        handles = [await queue.enqueue(gated, number) for number in range(8)]
        await until(lambda: len(ran) == 8)
        with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as stranger:
            stranger.execute("BEGIN IMMEDIATE")
            gate[0].set()
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match="try again"):
                    await queue.enqueue(gated, 99)
            await until(lambda: "cannot settle for now" in caplog.text)
        assert [await handle.result(PATIENCE) for handle in handles] == list(range(8))
        assert await (await queue.enqueue(gated, 8)).result(PATIENCE) == 8
    assert sorted(ran) == list(range(9))


@pytest.mark.anyio
@on_asyncio
async def test_a_clock_that_jumps_takes_nobody_for_dead(path: Path) -> None:
    lease = 1.0
    soon, late = (datetime.now(UTC) + timedelta(hours=hours) for hours in (0.5, 2))
    async with TaskQueue(SQLiteBackend(path)) as queue:
        with processes(path, 2, 2, lease) as (jumping, steady):
            running = workers.waits.using(deadline=soon)
            handles = await queue.enqueue_many([running.call() for _ in range(4)])
            await until(lambda: look(path, "SELECT sum(state = 1) FROM sitq_task") == [(4,)])
            before = look(path, "SELECT id FROM sitq_worker")
            pending = await queue.enqueue(workers.waits.using(deadline=late))
            for seconds in (3600, -3600):
                jumping.tell(f"jump {seconds}")
                await all_have_beaten(path, time.monotonic() + lease)
                assert look(path, "SELECT id FROM sitq_worker") == before
            assert await pending.status() is State.PENDING
            jumping.tell("jump 0")
            for process in (jumping, steady):
                process.tell("go")
            for handle in (*handles, pending):
                assert await handle.result(PATIENCE) == "went on"
            for process in (jumping, steady):
                assert "lease lost" not in process.stop()
        assert look(path, "SELECT DISTINCT fence, crashes FROM sitq_task") == [(1, 0)]


@pytest.mark.anyio
@on_asyncio
async def test_a_task_is_due_by_the_clock_of_who_reserves_it(path: Path) -> None:
    delayed = workers.nothing.using(delay=1800)
    async with TaskQueue(SQLiteBackend(path)) as queue:
        with processes(path, 2, 1, 15.0) as (jumping, steady):
            jumping.tell("jump -3600")
            await (await queue.enqueue(workers.nothing)).result(PATIENCE)
            waiting = await queue.enqueue(delayed)
            await (await queue.enqueue(workers.nothing)).result(PATIENCE)
            assert await waiting.status() is State.PENDING
            jumping.tell("jump 3600")
            await waiting.result(PATIENCE)
            for process in (jumping, steady):
                process.stop()


meeting = threading.Barrier(60)


@registry.task(name="meets")
def meets() -> None:
    meeting.wait(PATIENCE)


@pytest.mark.anyio
async def test_threads_of_the_program_do_not_hold_up_the_store(path: Path) -> None:
    """Sixty plain functions that wait for each other, beside a default limiter that is full."""
    full = threading.Event()
    gate[:] = [anyio.Event()]
    gate[0].set()
    backend = SQLiteBackend(path)
    async with anyio.create_task_group() as group:
        for _ in range(int(anyio.to_thread.current_default_thread_limiter().total_tokens) + 1):
            group.start_soon(anyio.to_thread.run_sync, full.wait, PATIENCE)
        await anyio.wait_all_tasks_blocked()
        try:
            async with (
                TaskQueue(backend) as queue,
                Worker(backend, registry=registry, max_concurrency=61),
            ):
                sixty = await queue.enqueue_many([meets.call() for _ in range(59)])
                assert await (await queue.enqueue(gated, 1)).result(PATIENCE) == 1
                sixty.append(await queue.enqueue(meets))
                for handle in sixty:
                    await handle.result(PATIENCE)
        finally:
            full.set()

"""Functions in processes: values and failures come home, and nothing is left when a run is to end.

Programs of which they are the main module are in test_processes_of_programs.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import anyio.lowlevel
import pytest

from sitq import SQLiteBackend, State, TaskFunction, TaskHandle, TaskQueue, Worker
from sitq.backends.base import Sweep
from sitq.model import WorkerRecord
from sitq.worker import processes as module
from sitq.worker.processes import Processes

from . import in_process as p

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])


@pytest.fixture
async def backend() -> AsyncIterator[SQLiteBackend]:
    async with SQLiteBackend(":memory:") as backend:
        yield backend


@pytest.fixture
def queue(backend: SQLiteBackend) -> TaskQueue:
    return TaskQueue(backend)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


def worker(backend: SQLiteBackend, **options: Any) -> Worker:
    return Worker(backend, registry=p.registry, **{"poll_interval": 0.2, **options})


async def call(queue: TaskQueue, function: TaskFunction[..., Any], *args: Any) -> Any:
    return await (await queue.enqueue(function, *args)).result(PATIENCE)


async def error_of(
    queue: TaskQueue, function: TaskFunction[..., Any], *args: Any
) -> tuple[str, str, int]:
    """Type and message of the error that a task ends with, and how often it was run."""
    result = await queue.get_result(await queue.enqueue(function, *args), timeout=PATIENCE)
    assert result is not None
    assert result.error is not None, result
    return result.error.type, result.error.message, result.attempts


async def told(folder: str, name: str) -> int:
    """What a function told of itself."""
    with anyio.fail_after(PATIENCE):
        while not (text := written(folder, name)):
            await anyio.sleep(0.005)
    return int(text)


def written(folder: str, name: str) -> str:
    """What is in a file; nothing, if it is not there."""
    file = Path(folder, name)
    return file.read_text() if file.exists() else ""


def let_go_on(folder: str) -> None:
    Path(folder, "go on").touch()


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended may be there until somebody asks how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def ended(*pids: int) -> None:
    with anyio.fail_after(PATIENCE):
        while any(map(lives, pids)):
            await anyio.sleep(0.005)


VALUES = [
    *(1, 2.5, "text", b"bytes", None, True, [1, [2]], (1, 2), {"a": {3}}, 1 + 2j, 10**30),
    p.Colour.RED,
    p.Point(1, p.Point(2, None)),
    datetime(2024, 1, 1, tzinfo=ZoneInfo("Europe/Paris")),
]


async def test_values_go_and_come(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        handle = await queue.enqueue(p.echo, *VALUES, last=p.Colour.RED)
        assert await handle.result(PATIENCE) == [*VALUES, {"last": p.Colour.RED}]
        big = "x" * 1_000_000
        assert await call(queue, p.echo, big[:-100]) == [big[:-100], {}]


async def test_processes_are_used_again(
    backend: SQLiteBackend, queue: TaskQueue, folder: str
) -> None:
    async with worker(backend):
        first = await call(queue, p.pid)
        assert first != os.getpid()
        assert await call(queue, p.pid) == first
        both = [await queue.enqueue(p.pid_when_all_are_here, folder, 2) for _ in range(2)]
        pids = {await one.result(PATIENCE) for one in both}
        assert len(pids) == 2
        assert first in pids
        assert all(map(lives, pids))
    assert not any(map(lives, pids))


async def test_how_functions_are_found(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        assert await call(queue, p.Slots.of_a_class) == "found"
        assert await call(queue, p.wrapped_below) == ("wrapped", 1)
        above = p.registry.get(f"{p.__name__}.wrapped_above")
        assert above is not None
        assert await call(queue, above) == 2
        assert await call(queue, p.registered_later) == ("wrapped", 3)
        kind, message, attempts = await error_of(queue, p.nowhere)
    assert (kind, attempts) == ("sitq.errors.UnknownTask", 2)
    assert "nobody_is_here" in message


async def test_exceptions_come_as_data(
    backend: SQLiteBackend, queue: TaskQueue, folder: str
) -> None:
    kinds = {
        "unportable": f"{p.__name__}.Unportable",
        "exit": "builtins.SystemExit",
        "interrupt": "builtins.KeyboardInterrupt",
        "group": "builtins.ExceptionGroup",
        "retried": "builtins.ConnectionResetError",
    }
    async with worker(backend, max_concurrency=1):
        first = await call(queue, p.pid)
        for kind, error in kinds.items():
            result = await queue.get_result(await queue.enqueue(p.fails, kind, folder), PATIENCE)
            assert result is not None
            assert result.error is not None
            assert (result.state, result.error.type) == (State.FAILED, error)
            assert len(written(folder, kind)) == (3 if kind == "retried" else 1)
            assert result.error.traceback.splitlines()[1].split('"')[1] == p.__file__
            assert "raise errors[kind] from error" in result.error.traceback
            assert result.error.cause is not None
            assert result.error.cause.type == "builtins.LookupError"
        assert await call(queue, p.pid) == first


async def test_what_cannot_be_stored_is_final(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        for kind in ("object", "lambda", "lock"):
            error, _, attempts = await error_of(queue, p.returns, kind)
            assert (error, attempts) == ("sitq.errors.NotSerializable", 1)


async def test_it_does_not_know_the_task(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        error, message, _ = await error_of(queue, p.asks_who_it_is)
    assert error == "sitq.errors.UsageError"
    assert "executor='process'" in message


# Runs that are to end.


async def two(folder: str) -> tuple[int, int]:
    """The process of `for_ever`, and what that has started."""
    return await told(folder, "process"), await told(folder, "started")


async def test_cancelling_ends_all_of_it(
    backend: SQLiteBackend, queue: TaskQueue, folder: str
) -> None:
    async with worker(backend, max_concurrency=1):
        handle = await queue.enqueue(p.for_ever, folder)
        pids = await two(folder)
        assert await handle.cancel()
        result = await queue.get_result(handle, timeout=PATIENCE)
        assert result is not None
        assert result.state is State.CANCELLED
        await ended(*pids)
        assert await call(queue, p.echo) == [{}]  # the slot is free


async def test_a_timeout_ends_it(backend: SQLiteBackend, queue: TaskQueue, folder: str) -> None:
    async with worker(backend, max_concurrency=1):
        await call(queue, p.pid)  # the timeout is not to be over before the process runs
        error, _, _ = await error_of(queue, p.for_ever_with_a_timeout, folder)
        assert error == "sitq.errors.TaskTimedOut"
        assert await call(queue, p.echo) == [{}]


async def test_a_deadline_ends_it(backend: SQLiteBackend, queue: TaskQueue, folder: str) -> None:
    async with worker(backend):
        await call(queue, p.pid)
        soon = p.spins.using(deadline=datetime.now(UTC) + timedelta(seconds=0.5))
        error, _, _ = await error_of(queue, soon, folder)
        assert error == "sitq.errors.DeadlinePassed"
        await ended(await told(folder, "process"))


async def test_the_end_of_the_grace_gives_it_back(
    backend: SQLiteBackend, queue: TaskQueue, folder: str
) -> None:
    async with worker(backend, grace=0.05):
        handle = await queue.enqueue(p.for_ever, folder)
        pids = await two(folder)
    await went_back(handle)
    await ended(*pids)


async def test_a_cancelled_host_gives_it_back(
    backend: SQLiteBackend, queue: TaskQueue, folder: str
) -> None:
    handle = await queue.enqueue(p.for_ever, folder)
    async with anyio.create_task_group() as group:
        await group.start(worker(backend).run)
        pids = await two(folder)
        group.cancel_scope.cancel()
    await went_back(handle)
    await ended(*pids)


async def went_back(handle: TaskHandle[Any]) -> None:
    task = await handle.get()
    assert task is not None
    assert (task.state, task.attempts, task.crashes) == (State.PENDING, 0, 0)


async def test_a_grace_lets_it_finish(
    backend: SQLiteBackend, queue: TaskQueue, folder: str
) -> None:
    async with worker(backend):
        handle = await queue.enqueue(p.waits_for, folder, "go on")
        await told(folder, "process")
        let_go_on(folder)
    assert await handle.status() is State.SUCCEEDED


async def test_a_lost_lease_ends_it(tmp_path: Path, folder: str) -> None:
    async with SQLiteBackend(tmp_path / "tasks.db") as backend:
        queue = TaskQueue(backend)
        async with worker(backend, lease=0.3, queues=["here"]):
            handle = await queue.enqueue(p.for_ever.using(queue="here"), folder)
            pids = await two(folder)
            [status] = await queue.workers()
            await take_from(status.id, backend, tmp_path / "tasks.db")
            await ended(*pids)
            await handle.cancel()


async def take_from(worker: int, backend: SQLiteBackend, path: Path) -> None:
    """Find that a worker has been silent for long, and take what it holds."""
    silent = "UPDATE sitq_worker SET beat = 0, suspect = 0, suspect_boot = boot WHERE id = ?"
    other = await backend.hire(WorkerRecord("here", 1, None, 1, 60.0))
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as stranger:
        crashed = 0
        while not crashed:  # a beat can come in between
            stranger.execute(silent, (worker,))
            crashed = len((await backend.recover(other, Sweep(3, 60.0))).crashed)
    await backend.dismiss(other)


def test_the_end_of_the_loop_ends_it(tmp_path: Path, folder: str) -> None:
    async def forgets_to_stop() -> tuple[int, int]:
        backend = SQLiteBackend(tmp_path / "tasks.db")
        await worker(backend).start()
        await TaskQueue(backend).enqueue(p.for_ever, folder)
        return await two(folder)

    async def look() -> None:
        async with SQLiteBackend(tmp_path / "tasks.db") as backend:
            [task] = await TaskQueue(backend).find()
            assert (task.state, task.attempts, task.crashes) == (State.PENDING, 0, 0)

    pids = anyio.run(forgets_to_stop)
    assert not any(map(lives, pids))
    anyio.run(look)


async def test_being_cancelled_at_any_moment_leaves_nothing(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the start of a process to its answer."""
    spawn = module._spawn
    spawned: list[subprocess.Popen[bytes]] = []

    def noting(channel: socket.socket) -> subprocess.Popen[bytes]:
        spawned.append(spawn(channel))
        return spawned[-1]

    monkeypatch.setattr(module, "_spawn", noting)
    before = set(os.listdir("/proc/self/fd"))
    async with Processes() as processes:
        for pause in (0, 0.001, 0.01, 0.1, 0.2, 0.3):
            for _ in range(2):
                with anyio.move_on_after(pause):
                    await processes.call(p.echo, (1,), {})
        assert await processes.call(p.echo, (1,), {}) == ([1, {}], None)
    assert set(os.listdir("/proc/self/fd")) == before
    assert len(spawned) > 6
    assert all(process.returncode is not None for process in spawned)


# Processes that end by themselves.


async def test_a_lost_process_is_one_attempt(
    backend: SQLiteBackend, queue: TaskQueue, folder: str
) -> None:
    async with worker(backend):
        waits = await queue.enqueue(p.waits_for, folder, "go on")
        await told(folder, "process")
        handle = await queue.enqueue(p.dies_once, folder)
        assert await handle.result(PATIENCE) == "alive"
        task = await handle.get()
        assert task is not None
        assert (task.attempts, task.crashes) == (1, 0)
        let_go_on(folder)
        assert await waits.result(PATIENCE) == "seen"


async def test_the_error_says_how_it_ended(
    backend: SQLiteBackend, queue: TaskQueue, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "END_LIMIT", 0.5)
    ends = {
        "kill": "SIGKILL; perhaps there was no memory left",
        "abort": "SIGABRT",
        "exit": "exit code 3",
        "close": "closed its connection",
        "fork": "SIGKILL",
        "shell": "SIGKILL",
        "real-time": "by signal 40",
    }
    async with worker(backend):
        for how, what in ends.items():
            error, message, _ = await error_of(queue, p.dies, how, folder)
            assert error == "sitq.errors.ProcessLost"
            assert what in message
            assert "in_process.dies" in message
    await ended(await told(folder, "started"), await told(folder, "sleeps"))


async def test_one_that_was_killed_while_it_was_idle(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        first = await call(queue, p.pid)
        os.kill(first, signal.SIGKILL)
        await ended(first)
        assert await call(queue, p.pid) != first


async def test_one_that_is_lost_while_the_worker_stops_is_no_attempt(
    backend: SQLiteBackend, queue: TaskQueue, folder: str
) -> None:
    one = worker(backend, grace=PATIENCE)
    await one.start()
    handle = await queue.enqueue(p.for_ever, folder)
    pids = await two(folder)
    async with anyio.create_task_group() as group:
        group.start_soon(one.stop)
        await anyio.lowlevel.checkpoint()
        os.kill(pids[0], signal.SIGKILL)
    await went_back(handle)
    await ended(*pids)


async def test_those_that_do_not_end_are_waited_for_together(
    anyio_backend: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    wait = subprocess.Popen[bytes].wait

    def noted(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        limits.append(timeout or 0.0)
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", noted)
    monkeypatch.setattr(module, "END_LIMIT", 0.1)
    pids: list[int] = []

    async def one() -> None:
        pid, _ = await processes.call(p.pid_beside_a_thread, (folder, 3), {})
        pids.append(pid)

    async with Processes() as processes, anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(one)
    assert len(set(pids)) == 3
    assert not any(map(lives, pids))
    assert sum(limits) < 0.2


async def test_what_is_forked_while_it_is_idle(
    backend: SQLiteBackend, queue: TaskQueue, folder: str
) -> None:
    async with worker(backend):
        first = await call(queue, p.forks_later, folder)
        let_go_on(folder)
        forked = await told(folder, "forked")
        descriptors = os.listdir(f"/proc/{forked}/fd")
        os.killpg(first, signal.SIGKILL)
    assert set(descriptors) <= {"0", "1", "2"}


async def test_idle_ones_end_after_a_while(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Processes() as processes:
        first, _ = await processes.call(p.pid, (), {})
        await processes.trim()
        assert lives(first)
        monkeypatch.setattr(module, "IDLE_LIMIT", 0.0)
        await processes.trim()
        assert not lives(first)
        second, _ = await processes.call(p.pid, (), {})
        assert second != first


# What a function finds around it.


async def test_its_streams(
    backend: SQLiteBackend, queue: TaskQueue, capfd: pytest.CaptureFixture[str]
) -> None:
    async with worker(backend):
        assert await call(queue, p.uses_its_streams) == ("", 0)
    output, errors = capfd.readouterr()
    assert sorted(output.splitlines()) == ["from below", "printed"]
    assert errors.count(".") == 200_000


async def test_a_stop_passes_it_over_while_it_starts(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = module._spawn

    def told_at_once(channel: socket.socket) -> subprocess.Popen[bytes]:
        process = spawn(channel)
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.send_signal(one)
        return process

    monkeypatch.setattr(module, "_spawn", told_at_once)
    async with Processes() as processes:
        assert await processes.call(p.echo, (1,), {}) == ([1, {}], None)


async def test_stops_pass_it_over_and_nothing_else(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        found = await call(queue, p.handlers)
    assert found == {"here": (False, False), "below": (True, True)}

"""``run(handle_signals=True)`` in real processes: a signal drains, a second gives back at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import anyio
import pytest

from sitq import SQLiteBackend, State, Worker
from sitq.backends.base import Filter
from sitq.errors import UsageError
from sitq.model import TaskRow

PATIENCE = 20.0

PROGRAM = """
import logging, signal, sys, threading, anyio, anyio.to_thread
from sitq import SQLiteBackend, TaskQueue, Worker, task

logging.basicConfig(level="INFO")
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if we run in the background
signal.signal(signal.SIGHUP, signal.SIG_IGN if "nohup" in sys.argv else signal.SIG_DFL)

@task(name="patient")
async def patient():
    print("started", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)
    print("finished", flush=True)

@task(name="endless")
async def endless():
    print("started", flush=True)
    await anyio.sleep_forever()

@task(name="in_thread")
def in_thread():
    print("started", flush=True)
    threading.Event().wait()

async def main():
    sys.modules["sitq.worker.serve"].HURRIED_LIMIT = float(sys.argv[4])
    backend = SQLiteBackend(sys.argv[1])
    async with TaskQueue(backend) as queue:
        await queue.enqueue(globals()[sys.argv[3]])
        await Worker(backend, grace=60).run(handle_signals=True)
    print("left", flush=True)

anyio.run(main, backend=sys.argv[2])
"""

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "trio"])


@contextmanager
def program(
    path: Path, loop: str, function: str, *words: str, hurried: float = PATIENCE
) -> Iterator[subprocess.Popen[str]]:
    """A worker with one task, which has started. Once hurried it waits for the task so long."""
    options = [str(path), loop, function, str(hurried), *words]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            yield process
        finally:
            process.kill()


def row_of(path: Path) -> TaskRow:
    async def look() -> TaskRow:
        async with SQLiteBackend(path) as backend:
            [task] = await backend.find(Filter(), after=0, limit=10)
            return task

    return anyio.run(look)


def workers_of(path: Path) -> int:
    async def look() -> int:
        async with SQLiteBackend(path) as backend:
            return len(await backend.workers())

    return anyio.run(look)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_lets_tasks_finish(loop: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with program(path, loop, "patient") as process:
        process.send_signal(getattr(signal, name))
        wait_for_log(process, "stops: signal received")
        output, errors = process.communicate("go on\n", timeout=PATIENCE)
    assert (process.returncode, output) == (0, "finished\nleft\n"), errors
    assert row_of(path).state is State.SUCCEEDED
    assert workers_of(path) == 0


def test_what_was_ignored_from_the_start_stays_ignored(loop: str, tmp_path: Path) -> None:
    with program(tmp_path / "tasks.db", loop, "endless", "nohup") as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        wait_for_log(process, "stops: signal received signal=SIGTERM")


def test_a_second_signal_gives_back_and_exits(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with program(path, loop, "endless") as process:
        process.send_signal(signal.SIGTERM)
        wait_for_log(process, "stops: signal received")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode not in (0, None), errors
    assert "left" not in output
    row = row_of(path)
    assert (row.state, row.attempts, row.crashes) == (State.PENDING, 0, 0)
    assert workers_of(path) == 0


def test_a_second_signal_leaves_a_thread_to_the_lease(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with program(path, loop, "in_thread", hurried=0.2) as process:
        process.send_signal(signal.SIGTERM)
        wait_for_log(process, "stops: signal received")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGTERM
    assert row_of(path).state is State.RUNNING
    assert workers_of(path) == 1


def test_a_third_signal_ends_the_process(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with program(path, loop, "in_thread") as process:
        process.send_signal(signal.SIGTERM)
        wait_for_log(process, "stops: signal received")
        process.send_signal(signal.SIGTERM)
        wait_for_log(process, "stops at once")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT


def test_cancellation_is_heard_during_the_grace(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with program(path, loop, "endless") as process:
        process.send_signal(signal.SIGTERM)
        wait_for_log(process, "stops: signal received")

        async def cancel() -> None:
            async with SQLiteBackend(path) as backend:
                [task] = await backend.find(Filter(), after=0, limit=1)
                assert await backend.cancel(task.id) is State.RUNNING

        anyio.run(cancel)
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (0, "left\n"), errors
    assert row_of(path).state is State.CANCELLED


def test_signals_need_the_main_thread(loop: str) -> None:
    caught: list[BaseException] = []

    async def run() -> None:
        await Worker(SQLiteBackend(":memory:")).run(handle_signals=True)

    def elsewhere() -> None:
        try:
            anyio.run(run, backend=loop)
        except UsageError as error:
            caught.append(error)

    thread = Thread(target=elsewhere)
    thread.start()
    thread.join(20)
    assert "main thread" in str(caught[0])


def wait_for_log(process: subprocess.Popen[str], event: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if event in line:
            return
    raise AssertionError(f"the program ended without {event!r}")

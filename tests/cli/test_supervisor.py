"""``sitq worker --processes``: processes that are killed come back, and all end together."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from sitq import Call, Result, State, Task, TaskQueue, task

from .command import Command, on_store

SHOP = """
import os, threading
from pathlib import Path

import anyio
from sitq import SQLiteBackend, Worker, task

@task(name="step")
async def step(n: int) -> int:
    print("runs in", os.getpid(), flush=True)
    await anyio.sleep(0.05)
    return n

@task(name="patient")
async def patient() -> str:
    print("waits in", os.getpid(), flush=True)
    while not Path("go").exists():
        await anyio.sleep(0.01)
    return "done"

@task(name="deaf")
def deaf() -> None:
    print("hangs in", os.getpid(), flush=True)
    threading.Event().wait()

backend = SQLiteBackend("tasks.db", synchronous="NORMAL")
worker = Worker(backend, lease=0.3, crash_limit=100, max_concurrency=2, grace=20)
hasty = Worker(backend, lease=0.3, max_concurrency=2, grace=0)
"""
SHORT = """
import sitq.cli.child, sitq.cli.supervisor
from sitq import Retry
sitq.cli.supervisor.BACKOFF = Retry(base=0.01, cap=0.02)
"""
TASKS, KILLS = 120, 4

both_loops = pytest.mark.parametrize("loop", ["asyncio", "trio"])


@task(name="step")
async def step(n: int) -> int:
    raise NotImplementedError


@task(name="patient")
async def patient() -> str:
    raise NotImplementedError


@task(name="deaf")
def deaf() -> None:
    raise NotImplementedError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    return tmp_path


def enqueue(path: Path, *calls: Call[object]) -> None:
    async def work(queue: TaskQueue) -> None:
        await queue.enqueue_many(calls)

    on_store(path / "tasks.db", work)


def tasks_in(path: Path) -> list[Task]:
    async def find(queue: TaskQueue) -> list[Task]:
        return await queue.find(limit=1000)

    return on_store(path / "tasks.db", find)


def has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@both_loops
def test_killed_processes_come_back_and_lose_nothing(loop: str, folder: Path) -> None:
    async def wait(queue: TaskQueue) -> list[Result]:
        found = [await queue.get_result(task.id, 30) for task in await queue.find(limit=TASKS)]
        return [one for one in found if one is not None]

    enqueue(folder, *(step.call(n) for n in range(TASKS)))
    options = ["--processes", "3", "--loop", loop]
    with Command(folder, "worker", "shop:worker", *options, setup=SHORT) as command:
        killed: list[int] = []
        while len(killed) < KILLS:
            pid = int(command.wait_for("runs in").split()[-1])
            if pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                command.wait_for(f"process ended pid={pid} signal=SIGKILL")
        results = on_store(folder / "tasks.db", wait)
        assert all(map(has_ended, killed))
        command.signal(signal.SIGTERM)
        assert command.end() == 0
    assert sorted(one.value for one in results) == list(range(TASKS))
    assert command.children() == set()
    assert sum("process started" in line for line in command.lines) >= 3 + KILLS - 2


@both_loops
def test_processes_stop_when_their_supervisor_dies(loop: str, folder: Path) -> None:
    enqueue(folder, patient.call())
    with Command(folder, "worker", "shop:worker", "--processes=2", "--loop", loop) as command:
        command.wait_for("waits in", "worker started", "worker started")
        command.signal(signal.SIGKILL)
        command.wait_for("stops: the supervisor has ended", "stops: the supervisor has ended")
        (folder / "go").touch()
        assert command.end() == -signal.SIGKILL
    [row] = tasks_in(folder)
    assert (row.state, row.attempts, row.crashes) == (State.SUCCEEDED, 0, 0)


@both_loops
def test_a_second_signal_reaches_all(loop: str, folder: Path) -> None:
    enqueue(folder, *[patient.call()] * 4)
    with Command(folder, "worker", "shop:worker", "--processes=2", "--loop", loop) as command:
        command.wait_for(*["waits in"] * 4)
        command.signal(signal.SIGTERM)
        command.wait_for(*["stops: signal received signal=SIGTERM grace"] * 2)
        command.signal(signal.SIGTERM)
        assert command.end() == 128 + signal.SIGTERM
    assert {(row.state, row.crashes) for row in tasks_in(folder)} == {(State.PENDING, 0)}


def test_what_does_not_end_is_killed(folder: Path) -> None:
    enqueue(folder, deaf.call())
    setup = "import sitq.cli.child; sitq.cli.child.MARGIN = 0.2"
    with Command(folder, "worker", "shop:hasty", "--processes=2", setup=setup) as command:
        pid = int(command.wait_for("hangs in").split()[-1])
        command.signal(signal.SIGTERM)
        command.wait_for(f"killed: the process did not end pid={pid}")
        assert command.end() == 128 + signal.SIGKILL
    assert has_ended(pid)


def test_what_is_wrong_is_told_once(folder: Path) -> None:
    with Command(folder, "worker", "shop:nothing", "--processes=3") as command:
        assert command.end() == 2
    assert [one for one in command.lines if one.startswith("sitq:")] == [
        "sitq: shop has no 'nothing'"
    ]


def test_an_application_that_cannot_be_loaded_any_more_ends_all(folder: Path) -> None:
    enqueue(folder, step.call(1))
    with Command(folder, "worker", "shop:worker", "--processes=2", setup=SHORT) as command:
        command.wait_for("worker started", "worker started")
        (folder / "shop.py").write_text("import nowhere", encoding="utf-8")
        os.kill(min(command.children()), signal.SIGRTMIN + 1)
        assert command.end() == 2
    text = "\n".join(command.lines)
    assert f"signal={signal.SIGRTMIN + 1}" in text
    assert "sitq: cannot import shop: ModuleNotFoundError" in text


TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"


@both_loops
def test_ctrl_c_reaches_each_once(loop: str, folder: Path) -> None:
    enqueue(folder, patient.call())
    ours, theirs = os.openpty()
    options = ["--processes=2", "--loop", loop]
    with (
        os.fdopen(ours, "wb", buffering=0) as keyboard,
        os.fdopen(theirs) as terminal,
        Command(
            folder,
            "worker",
            "shop:worker",
            *options,
            setup=TERMINAL,
            stdin=terminal.fileno(),
            session=True,
        ) as command,
    ):
        command.wait_for("waits in", "worker started", "worker started")
        assert all(os.getsid(pid) == pid for pid in command.children())
        keyboard.write(b"\x03")
        command.wait_for(*["signal received signal=SIGINT grace"] * 2)
        (folder / "go").touch()
        assert command.end() == 0
    assert sum("signal received" in line for line in command.lines) == 3
    assert tasks_in(folder)[0].state is State.SUCCEEDED


def test_files_here_do_not_stand_in_for_modules_of_python(folder: Path) -> None:
    (folder / "typer.py").write_text("raise ValueError", encoding="utf-8")
    enqueue(folder, step.call(1))
    with Command(folder, "worker", "shop:worker", "--processes=2") as command:
        command.wait_for("worker started", "worker started")
        command.signal(signal.SIGTERM)
        assert command.end() == 0

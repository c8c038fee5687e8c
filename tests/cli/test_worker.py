"""``sitq worker`` in one process: what it runs, how it ends, and what it refuses."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sitq.cli
from sitq import State, Task, TaskQueue, task
from sitq.registry import default_registry

from .command import Command, on_store

SHOP = """
from contextlib import asynccontextmanager
import anyio
from sitq import SQLiteBackend, Worker, task

@task(name="double")
async def double(n: int) -> int:
    return 2 * n

@task(name="endless")
async def endless() -> None:
    print("it runs", flush=True)
    await anyio.sleep_forever()

worker = Worker(SQLiteBackend("tasks.db"), queues=["default"])

@asynccontextmanager
async def unreachable():
    async with anyio.create_task_group():
        raise ConnectionError("the shop is closed")
        yield

unlucky = Worker(SQLiteBackend("tasks.db"), lifespan=unreachable)

def factory():
    return worker
"""

both_loops = pytest.mark.parametrize("loop", ["asyncio", "trio"])


@task(name="double")
async def double(n: int) -> int:
    raise NotImplementedError


@task(name="endless")
async def endless() -> None:
    raise NotImplementedError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    return tmp_path


def result_of(path: Path, n: int) -> Any:
    async def work(queue: TaskQueue) -> Any:
        handle = await queue.enqueue(double, n)
        return await handle.result(timeout=30)

    return on_store(path, work)


@both_loops
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_runs_tasks_until_a_signal(loop: str, number: signal.Signals, folder: Path) -> None:
    path = folder / "tasks.db"
    with Command(folder, "worker", "shop", "--backend", str(path), "--loop", loop) as command:
        command.wait_for("worker started")
        assert result_of(path, 21) == 42
        command.signal(number)
        assert command.end() == 0
    assert all(re.match(r"[\d-]{10} [\d:,]{12} [A-Z]+ sitq\.\w+: ", one) for one in command.lines)


@both_loops
def test_a_second_signal_gives_back_and_exits(loop: str, folder: Path) -> None:
    path = folder / "tasks.db"

    async def enqueue(queue: TaskQueue) -> None:
        await queue.enqueue(endless)

    async def find(queue: TaskQueue) -> list[Task]:
        return await queue.find()

    on_store(path, enqueue)
    with Command(folder, "worker", "shop", "-b", "tasks.db", "--loop", loop) as command:
        command.wait_for("it runs")
        command.signal(signal.SIGTERM)
        command.wait_for("stops: signal received signal=SIGTERM grace=20.0")
        command.signal(signal.SIGINT)
        assert command.end() == 128 + signal.SIGINT
    [row] = on_store(path, find)
    assert (row.state, row.attempts, row.crashes) == (State.PENDING, 0, 0)


@pytest.mark.parametrize("name", ["worker", "factory"])
def test_a_worker_of_the_application(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITQ_BACKEND", "other.db")
    with Command(folder, "worker", f"shop:{name}", "--log-level", "WARNING") as command:
        assert result_of(folder / "tasks.db", 4) == 8
        command.signal(signal.SIGTERM)
        assert command.end() == 0
    assert not any(" INFO " in line for line in command.lines)
    assert not (folder / "other.db").exists()


def test_options_reach_the_worker(folder: Path) -> None:
    async def look(queue: TaskQueue) -> Any:
        return await queue.workers()

    options = ["--queues", "a, b", "--concurrency", "3", "--lease", "7", "--grace", "0"]
    with Command(folder, "worker", "shop", "-b", "tasks.db", *options) as command:
        command.wait_for("worker started")
        [worker] = on_store(folder / "tasks.db", look)
        command.signal(signal.SIGTERM)
        command.wait_for("grace=0")
    assert (worker.queues, worker.concurrency, worker.lease) == (("a", "b"), 3, 7.0)


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder as the current one, for commands that run in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(default_registry, "_functions", {})
    monkeypatch.delenv("SITQ_BACKEND", raising=False)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    """The exit code and the one line of a command that is refused."""
    monkeypatch.setattr(sys, "argv", ["sitq", *arguments])
    with pytest.raises(SystemExit) as caught:
        sitq.cli.main()
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert isinstance(caught.value.code, int)
    return caught.value.code, line


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Missing argument 'APP'"),
        ("nowhere -b t.db", "sitq: there is no module nowhere"),
        ("shop", "name the store: --backend tasks.db, or set SITQ_BACKEND"),
        ("shop -b :memory:", "a store in memory is of one program alone"),
        ("shop -b nothing://x", "a backend is named by sqlite:///path or postgresql://..."),
        ("shop -b t.db --queues a,,b", "a queue name is made of letters"),
        ("shop -b t.db --queues=", "a queue name is made of letters"),
        ("shop -b t.db --lease nan", "lease must be a number of seconds from 0.1"),
        ("shop -b t.db --lease 0", "lease must be a number of seconds from 0.1"),
        ("shop -b t.db --grace=-1", "grace must be a number of seconds from 0"),
        ("shop -b t.db --grace soon", "'--grace'"),
        ("shop -b t.db --concurrency 0", "'--concurrency'"),
        ("shop -b t.db --processes 0", "'--processes'"),
        ("shop -b t.db --loop uvloop", "'--loop'"),
        ("shop:worker --grace 0", "leave out --grace: shop:worker is a worker that has its own"),
        ("shop:factory -b t.db --queues a --lease 3", "leave out --queues and --lease and --backe"),
        ("shop:worker --concurrency 2", "leave out --concurrency: shop:worker is a worker"),
    ],
)
def test_what_is_written_wrongly(
    arguments: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, line = refusal(monkeypatch, capsys, "worker", *arguments.split())
    assert code == 2
    assert message in line


@both_loops
@pytest.mark.usefixtures("here")
def test_a_store_that_is_locked(
    loop: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = sqlite3.connect("t.db", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    arguments = ["worker", "shop", "-b", "sqlite:///t.db?busy_limit=0.05", "--loop", loop]
    code, line = refusal(monkeypatch, capsys, *arguments)
    connection.close()
    assert code == 1
    assert "locked" in line


@both_loops
@pytest.mark.usefixtures("here")
def test_a_lifespan_that_fails(
    loop: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = refusal(monkeypatch, capsys, "worker", "shop:unlucky", "--loop", loop)
    expected = "the worker broke: ConnectionError: the shop is closed (shop.py, line 20)"
    assert (code, line) == (1, f"sitq: {expected}")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("more", ["", "--processes 2"])
def test_trio_is_missing(
    more: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arguments = ["worker", "shop", "-b", "t.db", "--loop", "trio", *more.split()]
    code, line = refusal(monkeypatch, capsys, *arguments)
    assert (code, line) == (1, "sitq: --loop trio needs trio: pip install 'sitq[trio]'")


WITHOUT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from sitq.__main__ import main
main()
"""


@pytest.mark.parametrize("name", ["typer", "rich"])
def test_the_command_line_is_not_installed(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT, name], capture_output=True, text=True, check=False
    )
    advice = "sitq: the command line is an extra: pip install 'sitq[cli]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", advice)

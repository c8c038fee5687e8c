"""Functions in processes of real programs: how they are found there, and how both end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from sitq import SQLiteBackend, State
from sitq.backends.base import Filter
from sitq.model import TaskRow

from .test_processes import lives, written

PATIENCE = 30.0

VALUES = """
import enum, sys
from dataclasses import dataclass

import anyio

from sitq import Registry, SQLiteBackend, TaskQueue, Worker, serializable, task
{imports}

@serializable
class Colour(enum.Enum):
    RED = 1

@serializable
@dataclass(frozen=True)
class Point:
    x: int
    colour: Colour = Colour.RED

class Odd(Exception): ...

@task(executor="process")
def moved(point: Point) -> list[object]:
    if point.x % 2:
        raise Odd(point)
    return [Point(point.x + 2), __name__, sys.argv]

async def main():
    backend = SQLiteBackend(":memory:")
    async with TaskQueue(backend) as queue, Worker(backend):
        point, name, argv = await (await queue.enqueue(moved, Point(2))).result(30)
        assert point == Point(4) and type(point) is Point
        assert (name, argv) == ("__mp_main__", sys.argv)
        failed = await queue.get_result(await queue.enqueue(moved, Point(1)), timeout=30)
        print(moved.name, failed.error.type, failed.error.message)

if __name__ == "__main__":
    anyio.run(main)
"""


@pytest.mark.parametrize(
    ("file", "command", "name"),
    [
        ("my-script.py", ["my-script.py"], "my-script"),
        ("pack/run.py", ["-m", "pack.run"], "pack.run"),
        ("pack/__main__.py", ["-m", "pack"], "pack.__main__"),
        ("folder/__main__.py", ["folder"], "__main__"),
    ],
)
def test_the_main_module_is_found(file: str, command: list[str], name: str, tmp_path: Path) -> None:
    place = tmp_path / file
    place.parent.mkdir(exist_ok=True)
    in_package = file.startswith("pack")
    if in_package:
        (place.parent / "__init__.py").touch()
        (place.parent / "other.py").touch()
    place.write_text(VALUES.format(imports="from . import other" if in_package else ""))
    done = run(tmp_path, *command, "word")
    told = f"{name}.moved {name}.Odd Point(x=1, colour=<Colour.RED: 1>)\n"
    assert done.stdout == told, done.stderr


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


BROKEN = """
import os, sys
import anyio
from sitq import SQLiteBackend, TaskQueue, Worker, task
import jobs

@task(executor="process")
def here(): ...

async def main():
    backend = SQLiteBackend(":memory:")
    async with TaskQueue(backend) as queue, Worker(backend):
        assert await (await queue.enqueue(jobs.elsewhere)).result(30) == 1
        result = await queue.get_result(await queue.enqueue(here), timeout=30)
        print(result.error.type, result.error.message)

if __name__ == "__mp_main__" and "dies" in sys.argv:
    os._exit(5)
if __name__ == "__main__" or "unguarded" in sys.argv:
    anyio.run(main)
"""


@pytest.mark.parametrize(
    ("how", "error", "reason"),
    [
        ("unguarded", "UnknownTask", 'below: if __name__ == "__main__":'),
        ("dies", "ProcessLost", "with exit code 5"),
    ],
)
def test_a_main_module_that_cannot_be_imported(
    how: str, error: str, reason: str, tmp_path: Path
) -> None:
    """Only its own functions are lost."""
    (tmp_path / "jobs.py").write_text(
        "from sitq import task\n@task(executor='process')\ndef elsewhere(): return 1"
    )
    (tmp_path / "broken.py").write_text(BROKEN)
    done = run(tmp_path, "broken.py", how)
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    assert line.startswith(f"sitq.errors.{error} ")
    assert reason in line


def test_what_is_typed_in_is_refused(tmp_path: Path) -> None:
    code = "from sitq import task\ndef f(): ...\ntask(executor='process')(f)"
    done = run(tmp_path, "-c", code)
    assert "RegistrationRefused: f is typed in" in done.stderr


# How it ends.

ENDS = """
import logging, os, signal, subprocess, sys, time
from pathlib import Path
import anyio
from sitq import SQLiteBackend, TaskQueue, Worker, task

loop, how, folder = sys.argv[1:]

def tell(name, number):
    Path(folder, f".{name}").write_text(str(number))
    Path(folder, f".{name}").rename(Path(folder, name))

if how == "loading" and __name__ == "__mp_main__":
    tell("process", os.getpid())
    while not Path(folder, "go on").exists():
        time.sleep(0.01)

@task(executor="process", name="patient")
def patient():
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    tell("started", started.pid)
    tell("process", os.getpid())
    while not Path(folder, "go on").exists():
        pass
    started.kill()
    started.wait()

async def main():
    backend = SQLiteBackend(Path(folder, "tasks.db"))
    async with TaskQueue(backend) as queue:
        await queue.enqueue(patient)
        worker = Worker(backend, grace=60)
        if how == "interrupt":
            await worker.run()
        await worker.run(handle_signals=True)
    print("left", flush=True)

if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if we run in the background
    anyio.run(main, backend=loop)
"""

both_loops = pytest.mark.parametrize("loop", ["asyncio", "trio"])


@contextmanager
def program(folder: Path, loop: str, how: str) -> Iterator[subprocess.Popen[str]]:
    """A worker with one task, whose process is there. It leads a group, as in a terminal."""
    (folder / "ends.py").write_text(ENDS)
    with subprocess.Popen(
        [sys.executable, "ends.py", loop, how, str(folder)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        try:
            wait_until_told(folder, "process")
            yield process
        finally:
            process.kill()
            (folder / "go on").touch()


def wait_until_told(folder: Path, name: str) -> None:
    end = time.monotonic() + PATIENCE
    while not written(str(folder), name):
        assert time.monotonic() < end
        time.sleep(0.005)


def pids(folder: Path) -> list[int]:
    return [int(written(str(folder), name) or 0) for name in ("process", "started")]


def wait_until_ended(folder: Path) -> None:
    end = time.monotonic() + PATIENCE
    while any(map(lives, pids(folder))):
        assert time.monotonic() < end
        time.sleep(0.005)


def wait_for_log(process: subprocess.Popen[str], event: str) -> None:
    assert process.stderr is not None
    assert any(event in line for line in process.stderr)


def row_in(folder: Path) -> TaskRow:
    async def look() -> TaskRow:
        async with SQLiteBackend(folder / "tasks.db") as backend:
            [task] = await backend.find(Filter(), after=0, limit=10)
            return task

    return anyio.run(look)


@both_loops
@pytest.mark.parametrize("how", ["running", "loading"])
def test_signals_to_the_group_let_it_finish(loop: str, how: str, tmp_path: Path) -> None:
    """Ctrl-C in a terminal; and whoever stops all processes of a service tells each."""
    with program(tmp_path, loop, how) as process:
        os.kill(pids(tmp_path)[0], signal.SIGTERM)
        os.kill(pids(tmp_path)[0], signal.SIGINT)
        os.kill(pids(tmp_path)[0], signal.SIGHUP)
        os.killpg(process.pid, signal.SIGINT)
        wait_for_log(process, "stops: signal received")
        (tmp_path / "go on").touch()
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (0, "left\n"), errors
    row = row_in(tmp_path)
    assert (row.state, row.attempts) == (State.SUCCEEDED, 0)
    wait_until_ended(tmp_path)


@both_loops
def test_a_second_signal_ends_it(loop: str, tmp_path: Path) -> None:
    with program(tmp_path, loop, "running") as process:
        os.killpg(process.pid, signal.SIGINT)
        wait_for_log(process, "stops: signal received")
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 128 + signal.SIGINT, errors
        wait_until_ended(tmp_path)
    row = row_in(tmp_path)
    assert (row.state, row.attempts, row.crashes) == (State.PENDING, 0, 0)


@both_loops
def test_an_interrupt_gives_it_back(loop: str, tmp_path: Path) -> None:
    with program(tmp_path, loop, "interrupt") as process:
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGINT, errors
        wait_until_ended(tmp_path)
    row = row_in(tmp_path)
    assert (row.state, row.attempts, row.crashes) == (State.PENDING, 0, 0)


@both_loops
def test_a_killed_worker_takes_it_along(loop: str, tmp_path: Path) -> None:
    """With what it has started, in the midst of a function that never ends."""
    with program(tmp_path, loop, "running") as process:
        process.kill()
        wait_until_ended(tmp_path)
    assert row_in(tmp_path).state is State.RUNNING

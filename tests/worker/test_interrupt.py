"""A real Ctrl-C: the worker stops, what ran goes back, the program ends by KeyboardInterrupt."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from sitq import SQLiteBackend, State, Worker
from sitq.backends.base import Filter
from sitq.worker.shift import Shift

PROGRAM = """
import signal, sys, time, anyio
from sitq import SQLiteBackend, TaskQueue, Worker, task

@task(name="spin")
async def spin():
    print("started", flush=True)
    until = time.monotonic() + 20
    while time.monotonic() < until:  # always in the midst of this function
        time.sleep(0.001)
        await anyio.lowlevel.checkpoint()

async def hosted(backend, queue):
    async with Worker(backend, grace=0.2):
        await anyio.sleep_forever()

async def run(backend, queue):
    await Worker(backend, grace=0.2).run()

async def start(backend, queue):
    worker = Worker(backend, grace=0.2)
    await worker.start()
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await worker.stop()

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if we run in the background

async def main():
    backend = SQLiteBackend(sys.argv[1])
    async with TaskQueue(backend) as queue:
        await queue.enqueue(spin)
        await globals()[sys.argv[3]](backend, queue)

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("way", ["hosted", "run", "start"])
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_an_interrupt_is_no_failure_of_the_task(loop: str, way: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    command = [sys.executable, "-P", "-c", PROGRAM, str(path), loop, way]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=15)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT, errors
    assert "KeyboardInterrupt" in errors

    async def look() -> None:
        async with SQLiteBackend(path) as backend:
            counts = await backend.counts()
            assert counts[State.PENDING] == 1
            [task] = await backend.find(Filter(), after=0, limit=10)
            assert (task.attempts, task.crashes) == (0, 0)

    anyio.run(look)


async def hosted(backend: SQLiteBackend) -> None:
    async with Worker(backend):
        await anyio.sleep_forever()


async def structured(backend: SQLiteBackend) -> None:
    await Worker(backend).run()


async def in_background(backend: SQLiteBackend) -> None:
    worker = Worker(backend)
    await worker.start()
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await worker.stop()


@pytest.mark.parametrize("way", [hosted, structured, in_background])
def test_one_that_hits_a_task_of_the_worker_is_passed_on(
    way: Callable[[SQLiteBackend], Awaitable[None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As trio may raise it between two functions of a task, where nothing is protected."""

    async def interrupted(shift: Shift) -> None:
        monkeypatch.setattr(module, "prune", prune)
        raise KeyboardInterrupt

    async def main() -> None:
        with anyio.fail_after(20):
            async with SQLiteBackend(tmp_path / "tasks.db") as backend:
                await way(backend)

    module = sys.modules["sitq.worker.serve"]
    prune = module.prune
    monkeypatch.setattr(module, "prune", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            anyio.run(main, backend="trio")
    finally:
        signal.signal(signal.SIGINT, before)
    assert module.prune is prune

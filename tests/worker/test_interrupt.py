"""A real Ctrl-C: the worker stops, what ran goes back, the program ends by KeyboardInterrupt."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from sitq import SQLiteBackend, State
from sitq.backends.base import Filter

PROGRAM = """
import sys, time, anyio
from sitq import SQLiteBackend, TaskQueue, Worker, task

@task(name="spin")
async def spin():
    print("started", flush=True)
    until = time.monotonic() + 20
    while time.monotonic() < until:  # always in the midst of this function
        time.sleep(0.001)
        await anyio.lowlevel.checkpoint()

async def main():
    backend = SQLiteBackend(sys.argv[1])
    async with TaskQueue(backend) as queue, Worker(backend, grace=0.2):
        await queue.enqueue(spin)
        await anyio.sleep_forever()

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_an_interrupt_is_no_failure_of_the_task(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    command = [sys.executable, "-P", "-c", PROGRAM, str(path), loop]
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

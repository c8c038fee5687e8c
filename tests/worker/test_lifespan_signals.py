"""Signals and Ctrl-C in real processes, while the resources of a worker open and close."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PATIENCE = 20.0

PROGRAM = """
import contextlib, logging, signal, sys, threading, anyio, anyio.to_thread
from sitq import SQLiteBackend, Worker
from sitq.worker import lifespan as module

loop, stage, how = sys.argv[1:]
module.HURRIED_LIMIT = 0.1 if how == "thread" else 20
logging.basicConfig(level="INFO")
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if we run in the background

async def for_ever(at):
    if at != stage:
        return
    print(stage, flush=True)
    if how == "thread":
        await anyio.to_thread.run_sync(threading.Event().wait)
    if how == "scope":
        await anyio.sleep_forever()

@contextlib.asynccontextmanager
async def lifespan():
    try:
        await for_ever("opening")
        yield
        await for_ever("closing")
    finally:
        print("cleaned up", flush=True)

async def main():
    worker = Worker(SQLiteBackend(":memory:"), lifespan=lifespan, grace=60)
    if how == "hosted":
        async with worker:
            await anyio.wait_all_tasks_blocked()
            print("hosted", flush=True)
            await anyio.sleep_forever()
    await worker.run(handle_signals=True, task_status=Told())
    print("left", flush=True)

class Told:
    def started(self, value=None):
        if stage != "opening":
            print("started", flush=True)

anyio.run(main, backend=loop)
"""

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "trio"])


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n"


def wait_for_log(process: subprocess.Popen[str], event: str) -> None:
    assert process.stderr is not None
    assert any(event in line for line in process.stderr)


def rest(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, output or errors


def test_a_signal_ends_the_start(loop: str) -> None:
    with start(loop, "opening", "scope") as process:
        wait_for_line(process, "opening")
        process.send_signal(signal.SIGTERM)
        assert rest(process) == (0, "cleaned up\nleft\n")


def test_a_second_signal_cuts_the_end_short(loop: str) -> None:
    with start(loop, "closing", "scope") as process:
        wait_for_line(process, "started")
        process.send_signal(signal.SIGTERM)
        wait_for_line(process, "closing")
        process.send_signal(signal.SIGTERM)
        status, output = rest(process)
    assert (status, output) == (128 + signal.SIGTERM, "cleaned up\n")


@pytest.mark.parametrize("stage", ["opening", "closing"])
def test_a_second_signal_ends_the_process_whatever_it_does(loop: str, stage: str) -> None:
    with start(loop, stage, "thread") as process:
        wait_for_line(process, "started" if stage == "closing" else "opening")
        process.send_signal(signal.SIGTERM)
        if stage == "closing":
            wait_for_line(process, "closing")
        else:
            wait_for_log(process, "stops: signal received")
        process.send_signal(signal.SIGTERM)
        status, _ = rest(process)
    assert status == -signal.SIGTERM


def test_an_interrupt_closes_it(loop: str) -> None:
    with start(loop, "closing", "hosted") as process:
        wait_for_line(process, "hosted")
        process.send_signal(signal.SIGINT)
        status, output = rest(process)
    assert (status, output) == (-signal.SIGINT, "closing\ncleaned up\n")

"""A worker process with rude tasks: ``python rude.py DATABASE LOOP QUEUE...``. SIGTERM stops it."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from pathlib import Path

import anyio
import anyio.lowlevel

from sitq import Registry, SQLiteBackend, Worker

LEASE = 0.6
"""Of a worker, in seconds."""

registry = Registry()


def note(journal: str) -> int:
    """Write down that a run begins. Returns how many have begun."""
    with open(journal, "a", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    return len(runs(journal))


def runs(journal: str) -> list[int]:
    """The processes in which the task was run."""
    return [int(line) for line in Path(journal).read_text(encoding="ascii").split()]


@registry.task(name="block_loop")
async def block_loop(journal: str) -> int:
    note(journal)
    time.sleep(3 * LEASE)  # noqa: ASYNC251
    return os.getpid()


@registry.task(name="crowd_loop")
async def crowd_loop(journal: str) -> int:
    """The loop never rests, and its steps are too short for a thread that wants a turn."""
    note(journal)
    end = time.monotonic() + 4 * LEASE
    while time.monotonic() < end:
        step = time.monotonic() + 0.001
        while time.monotonic() < step:
            pass
        await anyio.lowlevel.checkpoint()
    return os.getpid()


@registry.task(name="hold_interpreter")
async def hold_interpreter(journal: str) -> int:
    if note(journal) == 1:
        ctypes.PyDLL(None).usleep(int(2.5 * LEASE * 1_000_000))  # PyDLL does not let go of the GIL
    return os.getpid()


@registry.task(name="abort")
async def abort(journal: str) -> str:
    if note(journal) == 1:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.abort()
    return "again"


@registry.task(name="leave")
def leave(journal: str) -> str:
    if note(journal) == 1:
        os._exit(7)
    return "again"


@registry.task(name="exit_below")
async def exit_below() -> None:
    async def exits() -> None:
        raise SystemExit(9)

    async with anyio.create_task_group() as group:
        group.start_soon(exits)
        await anyio.sleep_forever()


@registry.task(name="stay")
async def stay() -> None:
    await anyio.sleep_forever()


@registry.task(name="pid")
async def pid() -> int:
    return os.getpid()


async def main(path: str, queues: list[str]) -> None:
    worker = Worker(
        SQLiteBackend(path),
        registry=registry,
        queues=queues,
        lease=LEASE,
        poll_interval=0.2,
        grace=0,
    )
    await worker.run(handle_signals=True)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[3:], backend=sys.argv[2])

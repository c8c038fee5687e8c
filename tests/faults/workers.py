"""A process with workers on one file; lines on its standard input tell it what to do.

``jump SECONDS`` moves its wall clock, ``go`` lets the tasks end that wait. It stops, gracefully,
when its input ends. Arguments: path, event loop, number of workers, lease.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AsyncExitStack

import anyio
import anyio.to_thread

from sitq import Clock, Registry, SQLiteBackend, Worker
from sitq.clock import to_microsecond

registry = Registry()
going: list[anyio.Event] = []


class MovedClock(Clock):
    """The clock of a machine that somebody sets."""

    def __init__(self) -> None:
        self.moved = 0.0

    def time(self) -> float:
        return to_microsecond(super().time() + self.moved)


@registry.task(name="waits")
async def waits() -> str:
    """Runs until this process is told to go on."""
    await going[0].wait()
    return "went on"


@registry.task(name="nothing")
async def nothing() -> None:
    """Ends at once."""


async def obey(clock: MovedClock) -> None:
    while line := await anyio.to_thread.run_sync(sys.stdin.readline):
        match line.split():
            case ["go"]:
                going[0].set()
            case ["jump", seconds]:
                clock.moved = float(seconds)
            case _:
                raise ValueError(line)
        print("done", flush=True)


async def live(path: str, workers: int, lease: float) -> None:
    clock = MovedClock()
    going.append(anyio.Event())
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(SQLiteBackend(path, clock=clock))
        for _ in range(workers):
            worker = Worker(backend, registry=registry, max_concurrency=1, lease=lease)
            await stack.enter_async_context(worker)
        print("ready", flush=True)
        await obey(clock)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    path, loop, workers, lease = sys.argv[1:]
    anyio.run(live, path, int(workers), float(lease), backend=loop)

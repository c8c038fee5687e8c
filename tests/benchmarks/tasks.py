"""The task functions that are measured, and how a measurement knows that all calls have run."""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread

from sitq import Registry, SQLiteBackend
from tests.benchmarks.setting import Setting

if TYPE_CHECKING:
    from sitq import PostgresBackend

__all__ = [
    "LATENCIES",
    "QUEUE",
    "backend_of",
    "burn",
    "calls",
    "fetch",
    "nothing",
    "nothing_sync",
    "registry",
    "spin",
    "stamp",
]

QUEUE = "default"
BURN = 0.005
"""Seconds of CPU."""

registry = Registry()


class Calls:
    """Counts calls, from any thread, and tells when enough have run."""

    def __init__(self) -> None:
        self.expect(0)

    def expect(self, calls: int, warm: int = 0) -> None:
        """Wait for so many calls, of which the first ones only warm up."""
        self._numbers = count(1)
        self._warm, self._last = warm, warm + calls
        self.began = time.perf_counter()
        self.ended = self.began
        self.finished = anyio.Event()

    def ran(self) -> None:
        """One more, on the event loop."""
        number = next(self._numbers)
        if number == self._last:
            self.ended = time.perf_counter()
            self.finished.set()
        elif number == self._warm:
            self.began = time.perf_counter()

    def ran_in_thread(self) -> None:
        """One more, in a thread of anyio."""
        if next(self._numbers) == self._last:
            anyio.from_thread.run_sync(self.finished.set)


calls = Calls()

LATENCIES: list[float] = []
"""Seconds from before an enqueue to the start, by the monotonic clock that processes share."""


@registry.task(name="nothing")
async def nothing() -> None:
    """What an async task is that costs nothing itself."""
    calls.ran()


@registry.task(name="nothing_sync")
def nothing_sync() -> None:
    """The same in a thread."""
    calls.ran_in_thread()


@registry.task(name="fetch")
async def fetch(url: str, tries: int) -> None:
    """What is enqueued: a call with arguments as they are common."""


@registry.task(name="stamp")
async def stamp(sent: float) -> float:
    """Note how long it took to get here."""
    LATENCIES.append(time.monotonic() - sent)
    return sent


@registry.task(name="burn")
async def burn() -> None:
    """Five milliseconds of work that waits for nothing."""
    spin()


def spin() -> None:
    """Use up CPU time."""
    end = time.thread_time() + BURN
    while time.thread_time() < end:
        pass


def backend_of(setting: Setting) -> SQLiteBackend | PostgresBackend:
    """The store that a measurement uses."""
    if setting.database is not None:
        from sitq import PostgresBackend  # psycopg is not to be in what is measured on SQLite

        return PostgresBackend(setting.database)
    return SQLiteBackend(setting.path, synchronous=setting.synchronous)

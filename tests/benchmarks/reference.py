"""The reference: a queue that does nothing but run.

No leases, no fences, no retries, no priorities, no checks: reserve and settle in batches, in one
transaction, one anyio task a call, arguments and results packed. It shows what a task costs at
least when SQLite, an event loop and a limiter have to work together.
"""

from __future__ import annotations

import gc
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

import aiosqlite
import anyio
import anyio.lowlevel
import msgpack

from tests.benchmarks.setting import Figures, Setting

__all__ = ["drain"]

SCHEMA = """
    CREATE TABLE task (
        seq INTEGER PRIMARY KEY, name TEXT, state INTEGER DEFAULT 0, run_at REAL,
        args BLOB, value BLOB
    );
    CREATE INDEX ready ON task (run_at, seq) WHERE state = 0;
"""
SETTLE = (
    "WITH v (seq, value) AS (VALUES {}) UPDATE task SET state = 2, value = v.value FROM v"
    " WHERE task.seq = v.seq AND task.state = 1"
)
RESERVE = (
    "UPDATE task SET state = 1 WHERE seq IN (SELECT seq FROM task WHERE state = 0"
    " ORDER BY run_at, seq LIMIT ?) RETURNING seq, name, args"
)


async def _nothing() -> None:
    pass


FUNCTIONS = {"nothing": _nothing}


class Door(Protocol):
    """The thread that owns the connection."""

    async def call(self, work: Callable[[sqlite3.Connection], Any]) -> Any: ...

    async def close(self) -> None: ...


class Aiosqlite:
    """aiosqlite's thread, under asyncio."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def call(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        return await self._connection._execute(work, self._connection._conn)

    async def close(self) -> None:
        await self._connection.close()


class Thread:
    """A thread of one's own, under trio."""

    def __init__(self, path: str, synchronous: str) -> None:
        import trio

        self._soon = trio.lowlevel.current_trio_token().run_sync_soon
        self._jobs: SimpleQueue[Any] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(path, synchronous), daemon=True)
        self._thread.start()

    def _run(self, path: str, synchronous: str) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            while (job := self._jobs.get()) is not None:
                work, done = job
                self._soon(done, work(connection))

    async def call(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        event = anyio.Event()
        answer: list[Any] = []

        def done(result: Any) -> None:
            answer.append(result)
            event.set()

        self._jobs.put((work, done))
        await event.wait()
        return answer[0]

    async def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()


async def _open(setting: Setting) -> Door:
    if setting.loop == "trio":
        return Thread(setting.path, setting.synchronous)
    connection = await aiosqlite.connect(setting.path, isolation_level=None)
    await connection.execute(f"PRAGMA synchronous = {setting.synchronous}")
    return Aiosqlite(connection)


def _create(setting: Setting, count: int) -> None:
    arguments = msgpack.packb(((), {}))
    with closing(sqlite3.connect(setting.path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA)
        connection.execute("BEGIN")
        rows = [("nothing", 0.0, arguments)] * count
        connection.executemany("INSERT INTO task (name, run_at, args) VALUES (?, ?, ?)", rows)
        connection.execute("COMMIT")


def _turn(
    ended: list[tuple[int, bytes]], free: int, connection: sqlite3.Connection
) -> list[tuple[int, str, bytes]]:
    """Settle and reserve, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    if ended:
        sql = SETTLE.format(", ".join(["(?, ?)"] * len(ended)))
        connection.execute(sql, [value for pair in ended for value in pair])
    rows = connection.execute(RESERVE, (free,)).fetchall() if free else []
    connection.execute("COMMIT")
    return rows


async def _drain(setting: Setting, count: int, slots: int) -> float:
    door = await _open(setting)
    limiter = anyio.CapacityLimiter(slots)
    ended: list[tuple[int, bytes]] = []
    some_ended = anyio.Event()

    async def run(seq: int, name: str, arguments: bytes) -> None:
        args, kwargs = msgpack.unpackb(arguments)
        value = await FUNCTIONS[name](*args, **kwargs)
        ended.append((seq, msgpack.packb(value)))
        limiter.release_on_behalf_of(seq)
        some_ended.set()

    settled = 0
    started = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        while settled < count:
            batch = ended.copy()
            ended.clear()
            some_ended = anyio.Event()
            rows = await door.call(partial(_turn, batch, int(limiter.available_tokens)))
            settled += len(batch)
            for row in rows:
                limiter.acquire_on_behalf_of_nowait(row[0])
                tasks.start_soon(run, *row)
            if not ended and settled < count:
                await some_ended.wait()
            await anyio.lowlevel.checkpoint()
    seconds = time.perf_counter() - started
    await door.close()
    return seconds


def drain(setting: Setting, count: int, slots: int) -> Figures:
    """From the first reserve until the last result is stored."""
    _create(setting, count)
    gc.collect()
    return {"rate_per_s": count / setting.run(_drain, setting, count, slots)}

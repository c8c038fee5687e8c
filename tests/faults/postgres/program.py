"""The processes of a load: they enqueue or work, and write down what they did.

``python -m tests.faults.postgres.program ROLE URL SCHEMA LOOP JOURNAL LEASE``. They stop gracefully
when their input ends. Lines of a journal: ``stored TOKEN`` for an enqueue that returned,
``raised TOKEN``, ``ran TOKEN``, and ``wrong TEXT`` for what must not be.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

import anyio
import anyio.to_thread

from sitq import Registry, TaskQueue, Worker
from sitq.backends.postgres import PostgresBackend
from sitq.errors import StoreUnavailable

registry = Registry()
queues: list[TaskQueue] = []
journals: list[int] = []
CALLERS = 3


def note(*words: object) -> None:
    """Write a line, whole, behind all that others wrote."""
    os.write(journals[0], (" ".join(map(str, words)).replace("\n", " ") + "\n").encode())


@registry.task(name="leaf")
async def leaf(token: str) -> str:
    note("ran", token)
    return token


@registry.task(name="slow")
async def slow(token: str) -> str:
    note("ran", token)
    await anyio.sleep(0.6)
    return token


@registry.task(name="tree")
async def tree(token: str) -> str:
    note("ran", token)
    async with queues[0].task_group() as group:
        handles = [await group.enqueue(leaf, f"{token}/{number}") for number in range(2)]
    return "+".join([await handle.result() for handle in handles])


class Enqueuer:
    """Enqueues in every way, without a pause, until it is told to stop."""

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue
        self._stopped = False

    async def run(self) -> None:
        async with anyio.create_task_group() as group:
            for caller in range(CALLERS):
                group.start_soon(self._call_all, f"{os.getpid()}.{caller}")
            await anyio.to_thread.run_sync(sys.stdin.read)
            self._stopped = True

    async def _call_all(self, name: str) -> None:
        number = 0
        while not self._stopped:
            number += 1
            tokens = [f"{name}.{number}"]
            if number % 5 == 0:
                tokens = [f"{name}.{number}:{part}" for part in "abc"]
            try:
                await self._call(number, tokens)
            except StoreUnavailable:
                note("raised", *tokens)
            except Exception as error:
                note("wrong", repr(error))
            else:
                note("stored", *tokens)
            await anyio.sleep(0.004)

    async def _call(self, number: int, tokens: list[str]) -> None:
        function: Any = tree if number % 7 == 0 else leaf
        if len(tokens) > 1:
            calls = [function.using(key=tokens[0]).call(tokens[0])]
            calls += [function.call(token) for token in tokens[1:]]
            await self._queue.enqueue_many(calls)
        elif number % 2:
            await self._queue.enqueue(function.using(key=tokens[0]), tokens[0])
        else:
            await self._queue.enqueue(function, tokens[0])


class Wrong(logging.Handler):
    """Writes down what a worker must not have to say where no worker dies."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.ERROR or "lease lost" in text:
            note("logged", text)


async def live(role: str, url: str, schema: str, lease: str) -> None:
    backend = PostgresBackend(url, schema=schema)
    async with TaskQueue(backend) as queue:
        queues.append(queue)
        if role == "enqueue":
            await Enqueuer(queue).run()
            return
        worker = Worker(backend, registry=registry, lease=float(lease), crash_limit=1_000)
        async with worker:
            await anyio.to_thread.run_sync(sys.stdin.read)


def main() -> None:
    role, url, schema, loop, journal, lease = sys.argv[1:]
    journals.append(os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    logging.getLogger("sitq").addHandler(Wrong())
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    note("began", role, os.getpid(), time.time())
    anyio.run(live, role, url, schema, lease, backend=loop)


if __name__ == "__main__":
    main()

"""PgQueuer through asyncpg, its fastest driver: a connection to work, and one to enqueue.

It deletes what has ended, and keeps a line about it in a log; there are no results. Its tables are
tuned by its own settings for autovacuum, and all of them are durable.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.core.completion import CompletionWatcher
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from tests.benchmarks.peers.calls import Calls
from tests.benchmarks.setting import URL

__all__ = ["opened"]

BATCH = 10
"""Jobs that a worker takes at once: its default."""
PAYLOAD = b'{"args": ["%s", 1]}' % URL.encode()
ATTENTIVE = timedelta(milliseconds=1)
"""How long it gathers notices before it looks whether a job has ended."""


class OnPgqueuer:
    """A queue of PgQueuer."""

    def __init__(
        self, url: str, driver: AsyncpgDriver, calls: Calls, batch: int, stack: AsyncExitStack
    ) -> None:
        self.started: list[float] = []
        self._url = url
        self._driver = driver
        self._queries = Queries(driver)
        self._calls = calls
        self._batch = batch
        self._stack = stack
        self._watcher: CompletionWatcher | None = None

    async def install(self) -> None:
        await self._queries.install()
        await self._queries.optimize_autovacuum()

    async def enqueue(self, number: int) -> None:
        await self._queries.enqueue("fetch", PAYLOAD)

    async def enqueue_many(self, count: int) -> None:
        await self._queries.enqueue(["fetch"] * count, [PAYLOAD] * count, [0] * count)

    async def enqueue_nothing(self, count: int) -> None:
        await self._queries.enqueue(["nothing"] * count, [None] * count, [0] * count)

    async def round_trip(self) -> None:
        if self._watcher is None:
            watcher = CompletionWatcher(self._driver, queries=self._queries, debounce=ATTENTIVE)
            self._watcher = await self._stack.enter_async_context(watcher)
        [job] = await self._queries.enqueue("nothing", None)
        await self._watcher.wait_for(job)

    async def stamp(self) -> None:
        await self._queries.enqueue("stamp", repr(time.monotonic()).encode())

    @asynccontextmanager
    async def work(self, slots: int) -> AsyncGenerator[None]:
        connection = await asyncpg.connect(self._url)
        worker = PgQueuer.from_asyncpg_connection(connection)

        @worker.entrypoint("nothing")
        async def nothing(job: Job) -> None:
            self._calls.ran()

        @worker.entrypoint("stamp")
        async def stamp(job: Job) -> None:
            assert job.payload is not None
            self.started.append(time.monotonic() - float(job.payload))

        running = asyncio.create_task(worker.run(batch_size=self._batch))
        try:
            yield
        finally:
            worker.shutdown.set()
            await asyncio.gather(running, return_exceptions=True)
            await connection.close()


@asynccontextmanager
async def opened(url: str, calls: Calls, batch: int = BATCH) -> AsyncGenerator[OnPgqueuer]:
    """A queue that is connected."""
    logging.getLogger("pgqueuer").setLevel(logging.ERROR)
    connection = await asyncpg.connect(url)
    try:
        async with AsyncExitStack() as stack:
            yield OnPgqueuer(url, AsyncpgDriver(connection), calls, batch, stack)
    finally:
        await connection.close()

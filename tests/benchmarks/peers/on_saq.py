"""SAQ on Redis: results stored, as it does by default."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from saq import Queue, Worker

from tests.benchmarks.peers.calls import Calls
from tests.benchmarks.setting import URL

__all__ = ["opened"]


class Saq:
    """A queue of SAQ."""

    def __init__(self, queue: Queue, calls: Calls) -> None:
        self._queue = queue
        self._calls = calls

    async def enqueue(self, number: int) -> None:
        await self._queue.enqueue("fetch", url=URL, tries=number)

    async def enqueue_many(self, count: int) -> None:
        async with self._queue.batch():
            await asyncio.gather(*(self.enqueue(number) for number in range(count)))

    async def enqueue_nothing(self, count: int) -> None:
        await asyncio.gather(*(self._queue.enqueue("nothing") for _ in range(count)))

    async def round_trip(self) -> None:
        await self._queue.apply("nothing", poll_interval=0.001)

    async def _nothing(self, context: dict[str, Any]) -> None:
        self._calls.ran()

    @asynccontextmanager
    async def work(self, slots: int) -> AsyncGenerator[None]:
        # Its first sweep, at the start of the worker, can take a job that begins just then for
        # stuck; this one keeps it away for a minute.
        await self._queue.sweep(lock=60)
        functions = [("nothing", self._nothing)]
        worker = Worker(self._queue, functions=functions, concurrency=slots)
        running = asyncio.create_task(worker.start())
        try:
            yield
        finally:
            await worker.stop()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def opened(url: str, calls: Calls) -> AsyncGenerator[Saq]:
    """A connected queue."""
    logging.getLogger("saq").setLevel(logging.ERROR)
    queue = Queue.from_url(url)
    await queue.connect()
    try:
        yield Saq(queue, calls)
    finally:
        await queue.disconnect()

"""streaQ on streams in Redis: results stored, as it does by default."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from streaq import Worker

from tests.benchmarks.peers.calls import Calls
from tests.benchmarks.setting import URL

__all__ = ["opened"]


class Streaq:
    """A worker of streaQ, which is its queue too."""

    def __init__(self, url: str, calls: Calls) -> None:
        self._url = url
        self._calls = calls
        self.worker, self._fetch, self._nothing = self._make(16)

    def _make(self, slots: int) -> tuple[Any, Any, Any]:
        worker = Worker(redis_url=self._url, concurrency=slots)

        @worker.task(name="fetch")
        async def fetch(url: str, tries: int) -> None:
            pass

        @worker.task(name="nothing")
        async def nothing() -> None:
            self._calls.ran()

        return worker, fetch, nothing

    async def enqueue(self, number: int) -> None:
        await self._fetch.enqueue(URL, number)

    async def enqueue_many(self, count: int) -> None:
        await self.worker.enqueue_many([self._fetch.enqueue(URL, n) for n in range(count)])

    async def enqueue_nothing(self, count: int) -> None:
        await self.worker.enqueue_many([self._nothing.enqueue() for _ in range(count)])

    async def round_trip(self) -> None:
        task = await self._nothing.enqueue()
        await task.result()

    @asynccontextmanager
    async def work(self, slots: int) -> AsyncGenerator[None]:
        worker, _, _ = self._make(slots)
        async with anyio.create_task_group() as group:
            await group.start(worker.run_async)
            yield
            signal.raise_signal(signal.SIGTERM)  # it shields itself from cancellation


@asynccontextmanager
async def opened(url: str, calls: Calls) -> AsyncGenerator[Streaq]:
    """A queue that is connected."""
    logging.getLogger("streaq").setLevel(logging.ERROR)
    streaq = Streaq(url, calls)
    async with streaq.worker:
        yield streaq

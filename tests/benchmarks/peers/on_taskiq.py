"""taskiq on a list in Redis, with its result backend there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from taskiq.api import run_receiver_task
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from tests.benchmarks.peers.calls import Calls, beside
from tests.benchmarks.setting import URL

__all__ = ["opened"]


class Taskiq:
    """A broker of taskiq."""

    def __init__(self, broker: ListQueueBroker, calls: Calls) -> None:
        self._broker = broker
        self._calls = calls

        @broker.task(task_name="fetch")
        async def fetch(url: str, tries: int) -> None:
            pass

        @broker.task(task_name="nothing")
        async def nothing() -> None:
            self._calls.ran()

        self._fetch, self._nothing = fetch, nothing

    async def enqueue(self, number: int) -> None:
        await self._fetch.kiq(URL, number)

    async def enqueue_many(self, count: int) -> None:
        # It has no call for many; each of these opens a connection, so they go in hundreds.
        for start in range(0, count, 100):
            numbers = range(start, min(start + 100, count))
            await asyncio.gather(*(self.enqueue(number) for number in numbers))

    async def enqueue_nothing(self, count: int) -> None:
        for _ in range(count):
            await self._nothing.kiq()

    async def round_trip(self) -> None:
        task = await self._nothing.kiq()
        await task.wait_result(check_interval=0.001)

    @asynccontextmanager
    async def work(self, slots: int) -> AsyncGenerator[None]:
        async with beside(run_receiver_task(self._broker, max_async_tasks=slots)):
            yield


@asynccontextmanager
async def opened(url: str, calls: Calls) -> AsyncGenerator[Taskiq]:
    """A broker that has started."""
    logging.getLogger("taskiq").setLevel(logging.CRITICAL)
    broker = ListQueueBroker(url).with_result_backend(RedisAsyncResultBackend(url))
    await broker.startup()
    try:
        yield Taskiq(broker, calls)
    finally:
        await broker.shutdown()

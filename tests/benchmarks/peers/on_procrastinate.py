"""procrastinate through its asynchronous connector of psycopg, with the pool that it makes itself.

It keeps what has ended, with its state; there are no results.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Status

from tests.benchmarks.peers.calls import Calls, beside
from tests.benchmarks.setting import URL

__all__ = ["opened"]

LOOK = 0.001
"""Seconds between two looks at whether a job has ended; it has no way to wait for that."""


class OnProcrastinate:
    """An app of procrastinate."""

    def __init__(self, app: App, calls: Calls) -> None:
        self.started: list[float] = []
        self._app = app

        @app.task(name="fetch")
        async def fetch(url: str, tries: int) -> None:
            pass

        @app.task(name="nothing")
        async def nothing() -> None:
            calls.ran()

        @app.task(name="stamp")
        async def stamp(sent: float) -> None:
            self.started.append(time.monotonic() - sent)

        self._fetch, self._nothing, self._stamp = fetch, nothing, stamp

    async def install(self) -> None:
        await self._app.schema_manager.apply_schema_async()

    async def enqueue(self, number: int) -> None:
        await self._fetch.defer_async(url=URL, tries=number)

    async def enqueue_many(self, count: int) -> None:
        await self._fetch.batch_defer_async(*({"url": URL, "tries": n} for n in range(count)))

    async def enqueue_nothing(self, count: int) -> None:
        await self._nothing.batch_defer_async(*({} for _ in range(count)))

    async def round_trip(self) -> None:
        job = await self._nothing.defer_async()
        manager = self._app.job_manager
        while await manager.get_job_status_async(job) is not Status.SUCCEEDED:
            await asyncio.sleep(LOOK)

    async def stamp(self) -> None:
        await self._stamp.defer_async(sent=time.monotonic())

    @asynccontextmanager
    async def work(self, slots: int) -> AsyncGenerator[None]:
        worker = self._app.run_worker_async(concurrency=slots, install_signal_handlers=False)
        async with beside(worker):
            yield


@asynccontextmanager
async def opened(url: str, calls: Calls) -> AsyncGenerator[OnProcrastinate]:
    """An app that is open."""
    logging.getLogger("procrastinate").setLevel(logging.ERROR)
    app = App(connector=PsycopgConnector(conninfo=url))
    queue = OnProcrastinate(app, calls)
    async with app.open_async():
        yield queue

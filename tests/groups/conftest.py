from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

from sitq import SQLiteBackend, TaskQueue, Worker
from sitq.backends.base import Backend

from ..postgres import backend_at, fresh_schema
from . import functions as f


@pytest.fixture(params=["memory", "file", "postgres"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    if request.param == "postgres":
        with fresh_schema() as schema:
            async with backend_at(schema) as backend:
                yield backend
        return
    path = ":memory:" if request.param == "memory" else tmp_path / "tasks.db"
    async with SQLiteBackend(path, synchronous="NORMAL") as backend:
        yield backend


@pytest.fixture(autouse=True)
async def queue(backend: Backend) -> TaskQueue:
    queue = TaskQueue(backend)
    f.noted.clear()
    f.told.clear()
    f.queues[:] = [queue]
    return queue


def worker(backend: Backend, **options: object) -> Worker:
    return Worker(backend, registry=f.registry, **options)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.005)

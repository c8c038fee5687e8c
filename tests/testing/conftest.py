"""The stores that `sitq.testing` is tried on, all on a clock that travels."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sitq import SQLiteBackend
from sitq.backends.base import Backend
from sitq.testing import Clock, Queue

from ..postgres import backend_at, fresh_schema


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "file", "postgres"])
async def backend(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[Backend]:
    if request.param == "postgres":
        with fresh_schema() as schema:
            async with backend_at(schema, clock=clock) as backend:
                yield backend
        return
    path = ":memory:" if request.param == "memory" else tmp_path / "tasks.db"
    async with SQLiteBackend(path, synchronous="NORMAL", clock=clock) as backend:
        yield backend


@pytest.fixture
async def queue(backend: Backend) -> AsyncIterator[Queue]:
    async with Queue(backend) as queue:
        yield queue

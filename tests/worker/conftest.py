from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sitq import SQLiteBackend, TaskQueue
from sitq.backends.base import Backend

from ..postgres import backend_at, fresh_schema


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


@pytest.fixture
async def queue(backend: Backend) -> TaskQueue:
    return TaskQueue(backend)

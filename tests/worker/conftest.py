from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sitq import SQLiteBackend, TaskQueue


@pytest.fixture(params=["memory", "file"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SQLiteBackend]:
    path = ":memory:" if request.param == "memory" else tmp_path / "tasks.db"
    async with SQLiteBackend(path, synchronous="NORMAL") as backend:
        yield backend


@pytest.fixture
async def queue(backend: SQLiteBackend) -> TaskQueue:
    return TaskQueue(backend)

"""The backends that the conformance suite runs over, and short ways to make tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from sitq import SQLiteBackend
from sitq.backends.base import Backend
from sitq.model import NewTask, WorkerRecord
from sitq.testing import Clock

from ..postgres import backend_at, fresh_schema


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture(params=["memory", "file-FULL", "file-NORMAL", "postgres"])
async def backend(
    request: pytest.FixtureRequest, path: Path, clock: Clock, anyio_backend: str
) -> AsyncIterator[Backend]:
    where, _, synchronous = request.param.partition("-")
    if where == "postgres":
        with fresh_schema() as schema:
            async with backend_at(schema, clock=clock) as made:
                yield made
        return
    made = SQLiteBackend(
        ":memory:" if where == "memory" else path, synchronous=synchronous or "FULL", clock=clock
    )
    async with made:
        yield made


@pytest.fixture
def new(clock: Clock) -> Callable[..., NewTask]:
    def make(**options: Any) -> NewTask:
        now = clock.time()
        plain: dict[str, Any] = {
            "id": uuid4().bytes,
            "name": "tests.work",
            "queue": "default",
            "priority": 0,
            "run_at": now,
            "key": None,
            "timeout": None,
            "deadline": None,
            "retry": None,
            "arguments": b"arguments",
            "enqueued": now,
        }
        return NewTask(**(plain | options))

    return make


@pytest.fixture
def record() -> WorkerRecord:
    return WorkerRecord("here", 1, None, 10, 15.0)

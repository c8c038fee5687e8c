"""A warning, once, when processes share a file with an SQLite that has the reset race."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

import pytest

from sitq import SQLiteBackend
from sitq.backends.sqlite import version
from sitq.model import WorkerRecord

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _afresh() -> None:
    version._warn.cache_clear()


async def opened_after(path: Path, pid: int) -> None:
    async with SQLiteBackend(path) as backend:
        await backend.hire(WorkerRecord("here", pid, None, 1, 15.0))
        await backend.hire(WorkerRecord("here", os.getpid(), None, 1, 15.0))
    async with SQLiteBackend(path):
        pass


@pytest.mark.parametrize(
    ("number", "own", "warnings"),
    [((3, 40, 1), False, 1), ((3, 40, 1), True, 0), ((3, 51, 3), False, 0)],
)
async def test_shared_by_processes(
    path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    number: tuple[int, int, int],
    own: bool,
    warnings: int,
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", number)
    with caplog.at_level(logging.WARNING, logger="sitq.sqlite"):
        await opened_after(path, os.getpid() if own else os.getpid() + 1)
    assert len(caplog.records) == warnings

"""Machines whose clocks differ by hours: the clock of the server is the only one that counts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import psycopg
import pytest

from sitq import TaskQueue

from ...postgres import backend_at, server_url
from .company import notes
from .load import ROOT
from .moved import LEASE

SLACK = 1.5
"""Seconds, for a machine that has other things to do."""
ROWS = (
    "SELECT key, state, crashes, attempts, extract(epoch FROM enqueued)::float8, "
    "extract(epoch FROM run_at)::float8, extract(epoch FROM started)::float8, "
    "extract(epoch FROM ended)::float8 FROM {}.task ORDER BY seq"
)
"""Ended ones are still there, with their keys."""


@pytest.mark.parametrize("hours", [1, -1], ids=["ahead", "behind"])
def test_two_processes_with_different_clocks(hours: int, schema: str) -> None:
    anyio.run(_make, schema)
    with psycopg.connect(server_url(), autocommit=True) as connection:
        began = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        [start] = began.fetchone() or [0.0]
        children = [
            _spawn(schema, 3600.0 * hours, "asyncio", "left", "right", start + 3.0),
            _spawn(schema, 0.0, "trio", "right", "left", start + 3.0),
        ]
        try:
            rows = _ended(connection, schema, 10)
        finally:
            for child in children:
                child.communicate(timeout=30)
        assert [child.returncode for child in children] == [0, 0]
    for who in ("left", "right"):
        for key in ("long", "plain", "delayed", "at"):
            state, crashes, attempts, *_ = rows[f"{key} {who}"]
            assert (state, crashes, attempts) == (2, 0, 0), key
        _, _, _, enqueued, run_at, began, ended = rows[f"delayed {who}"]
        assert abs(run_at - enqueued - 1.0) < 1e-5
        assert 1.0 <= began - enqueued < 1.0 + SLACK
        assert start <= enqueued < start + 5 * SLACK
        *_, run_at, began, ended = rows[f"at {who}"]
        assert abs(run_at - start - 3.0) < 1e-5
        assert run_at <= began < run_at + SLACK
        state, *_, ended = rows[f"late {who}"]
        assert state == 3
        assert start + 3.0 <= ended < start + 3.0 + LEASE + SLACK


async def _make(schema: str) -> None:
    async with backend_at(schema):
        pass


def _spawn(
    schema: str, shift: float, loop: str, own: str, other: str, moment: float
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.faults.postgres.moved", str(shift), server_url()]
    command += [schema, loop, own, other, str(moment)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, env=environment)


def _ended(connection: psycopg.Connection[Any], schema: str, number: int) -> dict[str, Any]:
    end = time.monotonic() + 30
    while True:
        rows = connection.execute(ROWS.replace("{}", schema)).fetchall()
        if len(rows) == number and all(row[1] >= 2 for row in rows):
            return {key: rest for key, *rest in rows}
        assert time.monotonic() < end, rows
        time.sleep(0.05)


@pytest.mark.anyio
async def test_a_moment_comes_back_as_it_was_given(schema: str) -> None:
    async with TaskQueue(backend_at(schema)) as queue:
        at = datetime.now(UTC) + timedelta(hours=1)
        handle = await queue.enqueue(notes.using(run_at=at), "text")
        task = await handle.get()
        assert task is not None
        assert task.run_at == at


@pytest.mark.anyio
@pytest.mark.parametrize("seconds", [7_200.0, -7_200.0])
async def test_a_delay_after_the_machine_has_slept(
    seconds: float, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its monotonic clock stood still, or somebody has set the other one."""
    async with TaskQueue(backend_at(schema)) as queue:
        await queue.enqueue(notes, "before")
        now, now_ns = time.time, time.time_ns
        monkeypatch.setattr(time, "time", lambda: now() + seconds)
        monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(seconds * 1e9))
        opened = queue._backend._opened
        opened.offset -= seconds  # as if that time had passed for the server
        task = await (await queue.enqueue(notes.using(delay=5), "after")).get()
        assert task is not None
        assert abs((task.run_at - task.enqueued_at).total_seconds() - 5) < 0.1

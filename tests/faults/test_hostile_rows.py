"""Rows that a stranger wrote: each fails by itself, and hurts no other row, worker or reader."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from sitq import SQLiteBackend, TaskQueue

from . import reader
from .checkpoints import LONG
from .rows import KINDS, SMALL, WORKERS, Kind, damage

PATIENCE = 60.0
INNOCENT = 100
MEMORY = 50 << 10
"""KiB by which the memory of the process may grow."""
NAMED = {
    "sitq.errors.DeadlinePassed",
    "sitq.errors.NotSerializable",
    "sitq.errors.StoreError",
    "sitq.errors.TaskDamaged",
    "sitq.errors.UnknownTask",
    "sitq.errors.InvalidArguments",
    "builtins.ValueError",  # what the function itself raises
}
ANSWERS = {
    "the same",
    "get: NoneType",  # its id cannot be read
    *(f"arguments: {name}" for name in ("tuple", "NotSerializable", "NoneType")),
    *(f"get_result: {name}" for name in ("Result", "NotSerializable", "NoneType")),
    *(f"result: {name}" for name in ("str", "list", "TaskFailed", "TaskCancelled")),
    *(f"result: {name}" for name in ("NotSerializable", "TimeoutError", "TaskNotFound")),
}


class Reader:
    """A process that runs ``reader.py``."""

    def __init__(self, path: Path, loop: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", reader.__file__, str(path), loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "it ended"
        return json.loads(line)

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def ask(self) -> dict[str, Any]:
        self.go_on()
        return self.answer()

    def end(self) -> int:
        self._process.communicate(timeout=PATIENCE)
        return self._process.returncode

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


async def store(path: Path, kinds: list[Kind]) -> dict[int, Kind | None]:
    """Rows of each kind, among innocent ones. Returns the kinds by ``seq``; innocent ones None."""
    async with TaskQueue(SQLiteBackend(path)) as queue:
        calls = [getattr(reader, kind.function).call(kind.what) for kind in kinds]
        between = len(calls) // INNOCENT
        for at in range(INNOCENT):
            calls.insert(at * (between + 1), reader.echo.call("innocent"))
        await queue.enqueue_many(calls)
    made: dict[int, Kind | None] = {}
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        pending = connection.execute(
            "SELECT seq FROM sitq_task WHERE state = 0 ORDER BY seq"
        ).fetchall()
        hostile = iter(kinds)
        for (seq,), call in zip(pending, calls, strict=True):
            made[seq] = None if call.args == ("innocent",) else next(hostile)
            if (kind := made[seq]) is not None:
                damage(connection, seq, kind)
        for id, values in WORKERS.items():
            connection.execute(
                "INSERT INTO sitq_worker (id, host, pid, concurrency, started, lease, beat, boot, "
                f"suspect, suspect_boot) VALUES ({id}, x'ff', 'text', 'text', 'text', {values})"
            )
        connection.commit()
    return made


def live(path: Path) -> set[int]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT seq FROM sitq_task WHERE state = 0 OR state = 1")
        return {row[0] for row in rows}


async def until_live_are(path: Path, left: set[int], kinds: dict[int, Kind | None]) -> None:
    with anyio.move_on_after(PATIENCE):
        while live(path) != left:
            await anyio.sleep(0.05)
    now = live(path)
    assert not [kinds[seq] for seq in now - left], "these were not dealt with"
    assert not [kinds[seq] for seq in left - now], "these should have been left alone"


def is_as_expected(kind: Kind | None, state: str, error: str | None) -> bool:
    """Whether a row was dealt with as its kind is to be."""
    if kind is None:
        return (state, error) == ("succeeded", None)
    if kind.left:
        return (state, error) == ("pending", "sitq.errors.TaskDamaged") or "queue" in kind.sets
    if kind.what.startswith("big arguments"):
        return (state, error) == ("failed", "sitq.errors.NotSerializable")
    if kind.state not in ("pending", "running"):
        return (state == kind.state or "became" in kind.what) and error in {None, *NAMED}
    if state == "succeeded":
        return error is None or kind.sets.startswith("key")  # which is only shown
    return state == "failed" and error in NAMED


# What a row does to the worker is the same on both loops; ``SITQ_LONG=1`` takes all on both.
ROWS = [("asyncio", KINDS), ("trio", KINDS if LONG else SMALL[::4])]


@pytest.mark.parametrize(("loop", "rows"), ROWS)
def test_hostile_rows_hurt_nobody_else(tmp_path: Path, loop: str, rows: list[Kind]) -> None:
    path = tmp_path / "tasks.db"
    process = Reader(path, loop)
    try:
        before = process.answer()["peak"]
        kinds = anyio.run(store, path, rows)
        process.go_on()
        left = {seq for seq, kind in kinds.items() if kind is not None and kind.left}
        anyio.run(until_live_are, path, left, kinds)
        assert process.ask()["asked"] < 100, "a hot loop"
        report = process.ask()
        cleared = process.ask()
        assert process.end() == 0
    finally:
        process.kill()
    found = {seq: (state, error) for seq, state, _, error, _ in report["found"]}
    assert found.keys() == kinds.keys()
    odd = [(kinds[seq], *found[seq]) for seq in found]
    assert not [one for one in odd if not is_as_expected(*one)]
    assert report["watched"] == []
    assert report["peak"] - before < MEMORY
    assert report["counts"]["pending"] == len(left)
    assert "default" in report["queues"]
    assert report["answers"].keys() <= ANSWERS, "an answer without a name of ours"
    assert cleared["left"] == 0

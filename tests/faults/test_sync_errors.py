"""A disk that fails to write or to sync: nothing is acknowledged, and all goes on afterwards."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from .disk import Disk
from .program import Program
from .replay import Replay, none, write


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    disk.close()


@pytest.fixture
def program(disk: Disk, anyio_backend: str) -> Iterator[Program]:
    with Program(disk.path, loop=anyio_backend, environment=disk.environment()) as program:
        yield program


def test_what_failed_is_not_acknowledged(disk: Disk, program: Program) -> None:
    cases = [
        ("sync_error", errno.EIO, "StoreUnavailable", 3),
        ("write_error", errno.EIO, "StoreUnavailable", 3),
        ("write_error", errno.ENOSPC, "StoreFull", 0),
    ]
    for stored, (what, number, error, renewals) in enumerate(cases, 1):
        before = int(program.tell("connections"))
        failures = disk.control.failures
        setattr(disk.control, what, number)
        for _ in range(3):
            assert program.tell("enqueue sized 10 2").startswith(error)
        setattr(disk.control, what, 0)
        program.tell("enqueue sized 10")
        assert f"'pending': {stored}," in program.tell("counts")
        assert disk.control.failures >= failures + 3
        assert int(program.tell("connections")) - before == renewals


def test_a_worker_keeps_its_outcomes_until_the_disk_is_back(disk: Disk, program: Program) -> None:
    program.tell("work 0.3")
    id = program.tell("enqueue gated 2000")
    program.wait_for_log("run begins")
    disk.control.sync_error = errno.EIO
    program.tell("release")
    for doing in ("sweep", "settle", "settle"):
        program.wait_for_log(f"cannot {doing} for now")
    disk.control.sync_error = 0
    assert program.tell(f"result {id}") == "2000"
    assert program.tell("runs") == "1"
    assert program.tell("stop") == "stopped"
    assert program.end() == 0


def test_what_is_acknowledged_after_a_failed_sync_survives_a_loss_of_power(disk: Disk) -> None:
    """Linux forgets what it could not sync, and what was left to be synced later with it."""
    with Program(disk.path, environment=disk.environment(recorded=True)) as program:
        program.tell("hire")
        program.tell("beat")
        disk.control.sync_error = errno.EIO
        assert program.tell("enqueue sized 10").startswith("StoreUnavailable")
        disk.control.sync_error = 0
        id = program.tell("enqueue sized 10")
        size = disk.log.stat().st_size
    replay = Replay()
    for record in disk.records():
        if record.end <= size:
            replay.apply(record)
    after = disk.root / "after"
    after.mkdir()
    write(replay.state(none), after)
    connection = sqlite3.connect(after / "tasks.db")
    stored = connection.execute("SELECT id FROM sitq_task").fetchall()
    connection.close()
    assert [UUID(bytes=row[0]) for row in stored] == [UUID(id)]

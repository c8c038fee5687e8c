"""No room: nothing is stored and nothing is lost, and all goes on once there is room."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import anyio
import pytest

from sitq import SQLiteBackend
from sitq.errors import StoreFull

from .program import Program

BLOCK = 4_096


class Shortage(Protocol):
    """Takes the room from a program, and gives it back."""

    errors: tuple[str, ...]

    def begin(self, program: Program) -> None: ...

    def end(self, program: Program) -> None: ...


class FullDisk:
    """A file takes what is left of the disk."""

    errors = ("StoreFull",)

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"

    def begin(self, program: Program) -> None:
        fill(self._filler)

    def end(self, program: Program) -> None:
        self._filler.unlink()


class PageBound:
    """The database may have no more pages."""

    errors = ("StoreFull",)

    def begin(self, program: Program) -> None:
        program.tell("pages 1")

    def end(self, program: Program) -> None:
        program.tell("pages 1000000")


class FileSizeLimit:
    """The system lets the process write no large files."""

    errors = ("StoreFull", "StoreUnavailable")

    def begin(self, program: Program) -> None:
        program.tell(f"limit {BLOCK}")

    def end(self, program: Program) -> None:
        program.tell("limit -1")


def fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(BLOCK)):
            pass


def mounted(options: str) -> Iterator[Path]:
    """A small disk in memory."""
    with tempfile.TemporaryDirectory(prefix="sitq-small-") as name:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", name]
        if os.geteuid() != 0:
            pytest.skip("only root can mount a small disk")
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True, timeout=20)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    yield from mounted("size=2m")


@pytest.fixture(params=["full disk", "bound of pages", "limit of file size"])
def shortage(request: pytest.FixtureRequest) -> Shortage:
    if request.param == "full disk":
        return FullDisk(request.getfixturevalue("small_disk"))
    return PageBound() if request.param == "bound of pages" else FileSizeLimit()


@pytest.fixture
def program(
    shortage: Shortage, request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: str
) -> Iterator[Program]:
    is_disk = isinstance(shortage, FullDisk)
    folder = request.getfixturevalue("small_disk") if is_disk else tmp_path
    with Program(folder / "tasks.db", loop=anyio_backend, synchronous="NORMAL") as program:
        yield program


def test_no_room(program: Program, shortage: Shortage) -> None:
    """Enqueueing, settling and deleting fail for want of room, each of them whole."""
    program.tell("work 0.6")
    done = program.tell("enqueue sized 100")
    assert program.tell(f"result {done}") == "100"
    id = program.tell("enqueue gated 200000")
    program.wait_for_log("run begins")
    shortage.begin(program)
    refused = program.tell("padded 300000").partition(":")[0]
    assert refused in shortage.errors
    program.tell("release")
    for _ in range(2):
        program.wait_for_log("cannot settle for now")
    shortage.end(program)
    assert program.tell(f"result {id}") == "200000"
    assert program.tell("runs") == "2"
    counts = "{'pending': 0, 'running': 0, 'succeeded': 2, 'failed': 0, 'cancelled': 0}"
    assert program.tell("counts") == counts
    assert program.tell("stop") == "stopped"
    assert program.tell("padded 300000").count("-") == 4
    assert program.end() == 0


def test_deleting_takes_room_too(small_disk: Path) -> None:
    with Program(small_disk / "tasks.db", synchronous="NORMAL") as program:
        shortage = FullDisk(small_disk)
        program.tell("work")
        id = program.tell("enqueue sized 100 50")
        program.tell(f"result {id}")
        program.tell("stop")
        shortage.begin(program)
        assert program.tell("purge").startswith("StoreFull")
        assert "'succeeded': 50" in program.tell("counts")
        shortage.end(program)
        assert program.tell("purge") == "50"


@pytest.mark.parametrize("options", ["size=64k", "size=2m,nr_inodes=2"])
def test_a_new_database_without_room(options: str) -> None:
    for folder in mounted(options):
        fill(folder / "filler")
        with pytest.raises(StoreFull, match=os.strerror(errno.ENOSPC) + "|full"):
            anyio.run(SQLiteBackend(folder / "tasks.db").open)

"""The disk under a process: recorded, slowed down, or broken, by the library in ``preload.c``."""

from __future__ import annotations

import atexit
import ctypes
import mmap
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("preload.c")
FOLDER = 0
"""Stands for the folder itself where a file's number is asked for."""


class Kind(IntEnum):
    """What was done, as ``preload.c`` numbers it."""

    WRITE = 1
    TRUNCATE = 2
    SYNC_BEGINS = 3
    SYNC_ENDS = 4
    SYNC_FAILS = 5
    CREATE = 6
    LINK = 7
    RENAME = 8
    UNLINK = 9


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that was done to the folder; ``end`` is where its record ends in the log."""

    kind: Kind
    inode: int
    offset: int
    sync: int
    names: tuple[str, ...]
    body: bytes
    end: int


class Control(ctypes.Structure):
    """What the disk is to do; every process that uses it looks here at each call."""

    _fields_ = [
        ("sync_delay", ctypes.c_int64),
        ("sync_error", ctypes.c_int64),
        ("write_error", ctypes.c_int64),
        ("kill_at", ctypes.c_int64),
        ("writes", ctypes.c_int64),
        ("syncs", ctypes.c_int64),
        ("failures", ctypes.c_int64),
    ]


@dataclass(slots=True)
class Disk:
    """A folder whose files go through the library in processes that get its `environment`."""

    root: Path
    folder: Path = field(init=False)
    log: Path = field(init=False)
    control: Control = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        self.folder = self.root / "disk"
        self.folder.mkdir()
        self.log = self.root / "log"
        page = self.root / "control"
        page.write_bytes(bytes(ctypes.sizeof(Control)))
        with page.open("r+b") as file:
            self.control = Control.from_buffer(mmap.mmap(file.fileno(), 0))

    def close(self) -> None:
        """Let go of the control, which is mapped from an open file."""
        del self.control

    @property
    def path(self) -> Path:
        """Of a database on it."""
        return self.folder / "tasks.db"

    def environment(self, *, recorded: bool = False) -> dict[str, str]:
        """The environment of a process that is to use this disk."""
        variables = {
            "LD_PRELOAD": str(library()),
            "SITQ_DISK_FOLDER": str(self.folder),
            "SITQ_DISK_CONTROL": str(self.root / "control"),
        }
        if recorded:
            variables["SITQ_DISK_LOG"] = str(self.log)
        return {**os.environ, **variables}

    def records(self) -> list[Record]:
        """What was done, in order."""
        return list(_parse(self.log.read_bytes()))


HEAD = struct.Struct("=IIQQQQ")


def _parse(log: bytes) -> Iterator[Record]:
    place = 0
    while place < len(log):
        kind, names, inode, offset, size, sync = HEAD.unpack_from(log, place)
        body = place + HEAD.size + names
        place = body + (size if kind == Kind.WRITE else 0)
        texts = log[body - names : body].decode().split("\0")[:-1]
        yield Record(Kind(kind), inode, offset, sync, tuple(texts), log[body:place], place)


@cache
def library() -> Path:
    """The library, compiled once. Skips the test where that cannot be."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux":
        pytest.skip("LD_PRELOAD as used here is of Linux")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tempfile.mkdtemp(prefix="sitq-disk-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = Path(folder) / "preload.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return made

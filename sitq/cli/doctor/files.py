"""Checks of the files of an SQLite store, from outside: nothing of them is opened.

To close any descriptor of a database drops the locks that SQLite holds on it in this process.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sitq.backends.sqlite.connect import BLOCKED_LOG
from sitq.backends.sqlite.version import OLDEST, has_reset_race
from sitq.cli.doctor.findings import Check, Finding, ok, problem, warning

__all__ = ["CHECKS", "CHECKS_BEFORE", "file_system_of", "parts_of", "size"]

MOUNTS = Path("/proc/self/mountinfo")
OVER_A_NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "ceph", "lustre"),
        *("glusterfs", "gfs2", "ocfs2", "beegfs", "orangefs", "davfs", "vboxsf", "drvfs"),
    }
)
GONE_WITH_THE_MACHINE = frozenset({"tmpfs", "ramfs"})
LITTLE, TOO_LITTLE = 256 << 20, 16 << 20
"""Bytes that are free on a disk."""


def parts_of(path: Path) -> Mapping[str, os.stat_result]:
    """The files of a database that are there."""
    found: dict[str, os.stat_result] = {}
    for name in (str(path), f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError):
            found[name] = os.stat(name)
    return found


def size(count: float) -> str:
    """Bytes, in words."""
    for unit, least in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= least:
            return f"{count / least:.1f} {unit}"
    return f"{count:.0f} bytes"


def library(_: Path) -> Iterator[Finding]:
    """The version of SQLite, and what is known to be wrong with it."""
    version = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info < OLDEST:
        yield problem("library", f"SQLite {version} is too old", "sitq needs 3.35 or newer")
    elif has_reset_race(sqlite3.sqlite_version_info):
        yield warning(
            "library",
            f"SQLite {version} has a rare bug by which several processes that share a file can "
            "damage it",
            "use a Python with SQLite 3.51.3, 3.50.7 or 3.44.6, or one process",
        )
    else:
        yield ok("library", f"SQLite {version}")


def file(path: Path) -> Iterator[Finding]:
    """Whether there is a file, and only one."""
    found = parts_of(path).get(str(path))
    if found is None:
        yield problem("file", f"there is no file {path}", "name another one, or run sitq migrate")
    elif not stat.S_ISREG(found.st_mode):
        yield problem("file", f"{path} is a folder or a device", "name a file")
    elif found.st_nlink > 1:
        yield warning(
            "file",
            f"{path} has {found.st_nlink} names (hard links), and one log under each of them",
            "let all programs use one name, and remove the others",
        )
    else:
        yield ok("file", f"{path}, {size(found.st_size)}")


def permissions(path: Path) -> Iterator[Finding]:
    """Whether this user can use the files, and who else can."""
    parts = parts_of(path)
    found = [*_access(path, parts), *(_owners(parts) if os.name == "posix" else ())]
    yield from found or [ok("permissions", "its files and its folder can be used")]


def _access(path: Path, parts: Mapping[str, os.stat_result]) -> Iterator[Finding]:
    closed = [name for name in parts if not os.access(name, os.R_OK | os.W_OK)]
    if not os.access(path.parent, os.R_OK | os.W_OK | os.X_OK):
        closed.append(str(path.parent))
    if closed:
        yield problem(
            "permissions",
            f"{_user()} cannot read and write {' and '.join(closed)}",
            "a database needs that for its file, its -wal and -shm, and its folder: chown, chmod",
        )


def _owners(parts: Mapping[str, os.stat_result]) -> Iterator[Finding]:
    owners = {name: _owner(found.st_uid) for name, found in parts.items()}
    if len({*owners.values()}) > 1:
        told = ", ".join(f"{name} {owner}" for name, owner in owners.items())
        yield warning(
            "permissions",
            f"its files have different owners: {told}",
            "let all programs run as one user, and chown the files",
        )
    elif _user() not in owners.values():
        yield warning(
            "permissions",
            f"its files are of {' and '.join({*owners.values()})}, and this is {_user()}",
            "run all programs that use it as one user",
        )
    open_to_all = [name for name, found in parts.items() if found.st_mode & stat.S_IRWXO]
    if open_to_all:
        yield warning(
            "permissions",
            f"every user of this machine can use {' and '.join(open_to_all)}",
            "arguments and results may be secret: chmod o=",
        )


def _owner(number: int) -> str:
    with suppress(ImportError, KeyError):
        import pwd  # not on Windows

        return pwd.getpwuid(number).pw_name
    return str(number)


def _user() -> str:
    return _owner(os.geteuid()) if os.name == "posix" else "this user"


def file_system(path: Path) -> Iterator[Finding]:
    """Whether it is one on which locks of several processes hold."""
    kind = file_system_of(path.parent)
    if kind is None:
        yield ok("file system", "which one it is cannot be told on this system")
    elif kind in OVER_A_NETWORK or kind.startswith("fuse."):
        yield problem(
            "file system",
            f"{path.parent} is on {kind}, where locks and shared memory need not hold",
            "keep the file on a local disk, or use PostgreSQL",
        )
    elif kind in GONE_WITH_THE_MACHINE:
        yield warning(
            "file system",
            f"{path.parent} is on {kind}, which is gone when the machine starts anew",
            "keep the file on a disk",
        )
    else:
        yield ok("file system", kind)


def file_system_of(folder: Path) -> str | None:
    """The type of the file system that a folder is on; None where it cannot be told."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    best, kind = -1, None
    for line in lines:
        before, _, after = line.partition(" - ")
        place = Path(re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), before.split(" ")[4]))
        # What was mounted later hides what was mounted there before.
        if folder.is_relative_to(place) and len(place.parts) >= best:
            best, kind = len(place.parts), after.split(" ")[0]
    return kind


def space(path: Path) -> Iterator[Finding]:
    """Whether there is room on the disk."""
    free = shutil.disk_usage(path.parent).free
    told = f"{size(free)} are free on the disk"
    if free < TOO_LITTLE:
        yield problem("space", told, "make room: nothing can be stored soon")
    elif free < LITTLE:
        yield warning("space", told, "make room; sitq purge lets the file grow no further")
    else:
        yield ok("space", told)


def log(path: Path) -> Iterator[Finding]:
    """Whether the write-ahead log is cut off from time to time."""
    found = parts_of(path).get(f"{path}-wal")
    length = 0 if found is None else found.st_size
    if length > BLOCKED_LOG:
        yield warning(
            "log",
            f"{path}-wal has {size(length)}",
            "a reader keeps it from being cut off: end long queries, backups, forgotten shells; "
            "without one it is cut at the next sweep of a worker",
        )
    else:
        yield ok("log", f"{size(length)} are in the write-ahead log")


CHECKS_BEFORE: Sequence[Check[Path]] = (library, file)
"""Those that can be made without a file."""
CHECKS: Sequence[Check[Path]] = (*CHECKS_BEFORE, permissions, file_system, space, log)

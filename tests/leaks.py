"""What a test must not leave behind in this process: threads, and open descriptors."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["nothing_left"]

MOMENT = 0.05
"""Seconds in which most threads have ended that are about to; to collect garbage takes longer."""
PATIENCE = 5.0
"""Seconds in which a thread may end, and close what it has open."""
DESCRIPTORS = "/proc/self/fd"
FOLDERS = (f"{Path(tempfile.gettempdir()).resolve()}{os.sep}", "/dev/shm/")
"""Where tests have their files."""
DATABASE = (".db", "-wal", "-shm", "-journal")
UNNAMED = ("pipe:", "anon_inode:inotify")


@contextmanager
def nothing_left(folder: Path, patience: float = PATIENCE) -> Generator[None]:
    """The threads and descriptors that the block began to use have ended when it has ended.

    Args:
        folder: where tests have files, beside the system's temporary folders.
        patience: seconds in which they may still do so, if they have not.
    """
    folders = (*FOLDERS, f"{folder}{os.sep}")
    threads, descriptors = _threads(), _descriptors(folders)

    def left() -> list[str]:
        return [*map(repr, _threads() - threads), *_open(_descriptors(folders) - descriptors)]

    yield
    if not _becomes_true(lambda: not left(), min(MOMENT, patience)):
        gc.collect()  # a backend that is dropped ends its threads
        _becomes_true(lambda: not left(), patience)
    assert not left(), f"left behind: {left()}"


def _becomes_true(condition: Callable[[], bool], patience: float) -> bool:
    end = time.monotonic() + patience
    while not (is_true := condition()) and time.monotonic() < end:
        time.sleep(0.001)
    return is_true


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if _is_ours(thread)}


def _is_ours(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    is_aiosqlite = getattr(target, "__module__", "").startswith("aiosqlite")
    return thread.name.startswith("sitq") or is_aiosqlite


def _open(descriptors: set[tuple[int, str]]) -> list[str]:
    return [f"descriptor {number} of {target}" for number, target in sorted(descriptors)]


def _descriptors(folders: tuple[str, ...]) -> set[tuple[int, str]]:
    """Those that can be a test's or sitq's, and to what each leads; none where there is no /proc.

    Sockets and event polls are left out: the libraries of the event loops close them when they
    like. So are 0 to 2, which pytest leads elsewhere to capture what is printed.
    """
    found: set[tuple[int, str]] = set()
    with suppress(FileNotFoundError):
        for name in os.listdir(DESCRIPTORS):
            if int(name) > 2:
                found |= _watched(name, folders)
    return found


def _watched(name: str, folders: tuple[str, ...]) -> set[tuple[int, str]]:
    with suppress(FileNotFoundError):  # that of the listing itself
        target = os.readlink(f"{DESCRIPTORS}/{name}")
        file = target.removesuffix(" (deleted)")
        if target.startswith(UNNAMED) or file.startswith(folders) or file.endswith(DATABASE):
            return {(int(name), target)}
    return set()

"""Sees what other processes commit: a thread waits for the kernel to report writes to the log.

SQLite writes the frames of a commit to the ``-wal`` file, then syncs it, and only then makes the
commit visible. So an event means that a commit may be coming: the watcher reads ``data_version``
on a connection of its own, and again after a while that grows. Where the kernel has no inotify it
reads ``data_version`` every few milliseconds. In both cases it does so only while somebody waits.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

_inotify: Any = None  # it ships no types
with suppress(ImportError):  # not Linux
    _inotify = import_module("inotify_simple")

__all__ = ["Watch"]

LADDER = (0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05)
"""Seconds after which a look is repeated while an announced commit cannot be seen yet."""
TICK = 0.5
"""Longest wait for an event, in seconds: the fallback for one that got lost."""
POLL = 0.005
"""Pause between two looks where there is no inotify, in seconds."""


class Watch:
    """Watches one database for commits of others, from a thread, while somebody is interested.

    Args:
        path: of the database file.
        connect: makes the watcher's own connection; called on the thread.
        changed: called on the thread after a commit was seen.
    """

    def __init__(
        self, path: str, connect: Callable[[], sqlite3.Connection], changed: Callable[[], object]
    ) -> None:
        self._path = path
        self._connect = connect
        self._changed = changed
        self._interested = 0
        self._wanted = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="sitq-watch", daemon=True)
        self._thread.start()

    @contextmanager
    def interest(self) -> Generator[None]:
        """Commits of others are reported while any such block is open. On the event loop only."""
        self._interested += 1
        self._wanted.set()
        try:
            yield
        finally:
            self._interested -= 1
            if not self._interested:
                self._wanted.clear()

    def close(self) -> None:
        """End the thread, within one `TICK`."""
        self._closed = True
        self._wanted.set()

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join(4 * TICK)

    def _run(self) -> None:
        with suppress(sqlite3.Error):
            connection = self._connect()
            try:
                self._watch(connection)
            finally:
                connection.close()

    def _watch(self, connection: sqlite3.Connection) -> None:
        events = _Events(self._path)
        seen = -1
        try:
            while not self._closed:
                self._wanted.wait()
                seen = self._report(connection, seen)
                if events.wait(TICK):
                    seen = self._climb(connection, seen, events)
        finally:
            events.close()

    def _climb(self, connection: sqlite3.Connection, seen: int, events: _Events) -> int:
        """Look until the announced commit is seen; a new event starts the ladder again."""
        step = 0
        while step < len(LADDER) and not self._closed:
            now = self._report(connection, seen)
            if now != seen:
                return now
            time.sleep(LADDER[step])
            step = 0 if events.pending() else step + 1
        return seen

    def _report(self, connection: sqlite3.Connection, seen: int) -> int:
        try:
            now = connection.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.OperationalError:
            return seen
        if now != seen and not self._closed:
            self._changed()
        return now


class _Events:
    """Events of the kernel about the ``-wal`` file, or none, which makes every wait a short one."""

    def __init__(self, path: str) -> None:
        self._wal = path + "-wal"
        self._inotify: Any = None
        if _inotify is not None:
            with suppress(OSError):  # the system's limit of watches
                self._inotify = _inotify.INotify()
        self._armed = False

    def wait(self, seconds: float) -> bool:
        """Wait for an event. True if there was one, or if nothing can tell."""
        if not self._arm():
            time.sleep(POLL)
            return False
        return self._drain(self._inotify.read(timeout=int(seconds * 1000)))

    def pending(self) -> bool:
        """Whether another event came meanwhile."""
        return self._inotify is not None and self._drain(self._inotify.read(timeout=0))

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()

    def _arm(self) -> bool:
        if self._inotify is not None and not self._armed and os.path.exists(self._wal):
            with suppress(OSError):
                flags = _inotify.flags
                self._inotify.add_watch(self._wal, flags.MODIFY | flags.DELETE_SELF)
                self._armed = True
        return self._armed

    def _drain(self, events: Iterable[Any]) -> bool:
        masks = [event.mask for event in events]
        if any(mask & (_inotify.flags.IGNORED | _inotify.flags.DELETE_SELF) for mask in masks):
            self._armed = False
        return bool(masks)

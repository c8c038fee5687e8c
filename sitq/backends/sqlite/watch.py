"""Sees what other processes commit: a thread waits for the kernel to report writes to the log.

SQLite writes the frames of a commit to the ``-wal`` file, then syncs it, and only then makes the
commit visible. So an event means that a commit may be coming: the watcher reads ``data_version``
on a connection of its own, and again after a while that grows. Where the kernel has no inotify it
reads ``data_version`` every few milliseconds. In both cases it does so only while somebody waits.
"""

from __future__ import annotations

import os
import select
import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from importlib import import_module
from typing import Any

from sitq.backends.sqlite.connect import Database
from sitq.errors import StoreError

__all__ = ["Watch"]

LADDER = (
    *(0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.003, 0.005),
    *(0.01, 0.02, 0.05, 0.1, 0.2),  # for disks that are slow to sync
)
"""Seconds after which a look is repeated while an announced commit cannot be seen yet."""
SPACING, WIDEST_SPACING = 0.00025, 0.008
"""Seconds without a look after a commit of this process's own. The time grows while none but such
come, for a busy worker makes hundreds a second, and begins anew when one of others was among them:
who waits for these waits for the next one too."""
TICK = 1.0
"""Longest wait for an event, in seconds: the fallback for one that got lost."""
POLL = 0.005
"""Pause between two looks where there is no inotify, in seconds."""
POLL_RESOLUTION = 0.001
"""``poll`` counts in milliseconds."""


class Watch:
    """Watches one database for commits of others, from a thread, while somebody is interested.

    Args:
        database: which one; the watcher makes its own connection to it.
        changed: called on the thread after a commit of others was seen, and when the database is
            unusable: whoever waits looks then, and meets the error.
        ask: called after a commit that may be this process's own: the writer knows.
    """

    def __init__(
        self, database: Database, changed: Callable[[], object], ask: Callable[[], object]
    ) -> None:
        self._database = database
        self._changed = changed
        self._ask = ask
        self._known_writes = -1
        self._spacing = 0.0
        self._interested = 0
        self._wanted = threading.Event()
        self._closed = False
        self._events = _Events(database.path)
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
            if not self._interested and not self._closed:
                self._wanted.clear()

    def others_came(self) -> None:
        """The writer found that commits of others were among its own. From any thread."""
        self._spacing = 0.0

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._wanted.set()
        self._events.wake()

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join(2 * TICK)

    def _run(self) -> None:
        try:
            while not self._closed:
                with (
                    suppress(sqlite3.Error, StoreError),
                    closing(self._database.connect()) as connection,
                ):
                    self._watch(connection)
                if not self._closed:
                    self._changed()
                    self._events.wait(TICK)
        finally:
            self._events.close()

    def _watch(self, connection: sqlite3.Connection) -> None:
        seen = -1
        announced = False
        while not self._closed:
            self._wanted.wait()
            # What was written just before the events began is announced by none.
            if self._events.arm() or announced:
                seen = self._climb(connection, seen)
            else:
                seen = self._report(connection, seen)
            announced = self._events.wait(TICK)

    def _climb(self, connection: sqlite3.Connection, seen: int) -> int:
        """Look until the announced commit must have been seen; an event starts the ladder again.

        A commit that was seen ends nothing: the event may have announced the next one as well.
        """
        step = 0
        while step < len(LADDER) and not self._closed:
            before, seen = seen, self._report(connection, seen)
            if seen != before:
                time.sleep(self._spacing)
            step = 0 if self._events.wait(LADDER[step]) else step + 1
        return self._report(connection, seen)

    def _report(self, connection: sqlite3.Connection, seen: int) -> int:
        self._database.check_usable()
        try:
            now = connection.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.OperationalError:
            return seen
        if now != seen and not self._closed:
            self._tell()
        return now

    def _tell(self) -> None:
        writes = self._database.writes
        if writes == self._known_writes:
            self._spacing = 0.0
            self._changed()
        else:
            self._known_writes = writes
            self._spacing = min(2 * self._spacing or SPACING, WIDEST_SPACING)
            self._ask()


class _Events:
    """Events of the kernel about the ``-wal`` file; where there are none, waits are short."""

    def __init__(self, path: str) -> None:
        self._wal = path + "-wal"
        self._closing = threading.Lock()
        self._closed = False
        self._inotify: Any = None
        with suppress(ImportError, OSError):  # not Linux; the system's limit of watches
            # Not with sitq: it takes a tenth of that time. It ships no types.
            self._library: Any = import_module("inotify_simple")
            self._inotify = self._library.INotify()
        self._armed = False
        self._wake_read, self._wake_write = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._wake_read, select.POLLIN)
        if self._inotify is not None:
            self._poll.register(self._inotify.fileno(), select.POLLIN)

    def arm(self) -> bool:
        """Ask for events, where none come yet. True if they come from now on."""
        if self._inotify is None or self._armed or not os.path.exists(self._wal):
            return False
        with suppress(OSError):
            flags = self._library.flags
            self._inotify.add_watch(self._wal, flags.MODIFY | flags.DELETE_SELF)
            self._armed = True
        return self._armed

    def wait(self, seconds: float) -> bool:
        """Wait for an event. True if there was one; False, and soon, where none can be told of."""
        if seconds < POLL_RESOLUTION:
            time.sleep(seconds)
        else:
            self._poll.poll(1000 * (seconds if self._armed else min(seconds, POLL)))
        return self._pending()

    def wake(self) -> None:
        """End a wait, now and from now on. From any thread."""
        with self._closing:
            if not self._closed:
                os.write(self._wake_write, b".")

    def _pending(self) -> bool:
        if self._inotify is None:
            return False
        masks = [event.mask for event in self._inotify.read(timeout=0)]
        flags = self._library.flags
        if any(mask & (flags.IGNORED | flags.DELETE_SELF) for mask in masks):
            self._armed = False
        return bool(masks)

    def close(self) -> None:
        """Give up the descriptors. On the thread of the watcher."""
        with self._closing:
            self._closed = True
            os.close(self._wake_read)
            os.close(self._wake_write)
        if self._inotify is not None:
            self._inotify.close()

"""Tells other processes of changes, and hears of theirs: by NOTIFY, which carries nothing.

A notice is sent after the commit and by itself, for inside a transaction it would make the commits
of the whole server wait for each other; and seldom, for all it says is "look". One that is lost
delays, and loses nothing: who waits looks every second anyway.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

import psycopg

from sitq.backends.postgres.connect import Connection, Server, as_query
from sitq.backends.postgres.driver import Desk, Session
from sitq.errors import StoreError

__all__ = ["Bell", "Listener"]

SPACING, WIDEST_SPACING = 0.002, 0.008
"""Seconds between two notices of one process. The time grows while there is always another one: a
busy worker would send hundreds a second."""
TICK = 1.0
"""Seconds after which who waits is told to look, whatever was heard."""
LONGEST_PAUSE = 2.0
"""Seconds between two tries to listen."""
WORK, ENDED = "work", "ended"


class Bell:
    """Sends notices, from a thread of its own.

    Args:
        desk: does it on a connection of the pool.
        server: whose schema names the channels.
    """

    def __init__(self, desk: Desk, server: Server) -> None:
        self._desk = desk
        self._channels = {name: f"{server.schema}_{name}" for name in (WORK, ENDED)}
        self._wanted: set[str] = set()
        self._ringing = threading.Lock()
        self._rung = threading.Event()
        self._closed = False
        self._sent: dict[int, float] = {}
        """When it sent one last, by the server's process that did it."""
        self._thread = threading.Thread(target=self._run, name="sitq-notify", daemon=True)
        self._thread.start()

    def ring(self, *what: str) -> None:
        """Tell others soon. From any thread."""
        with self._ringing:
            self._wanted.update(what)
        self._rung.set()

    def is_own(self, pid: int) -> bool:
        """Whether who hears this process of the server hears itself. From any thread.

        The number of one that is gone may be that of another's by now.
        """
        return time.monotonic() - self._sent.get(pid, -math.inf) < TICK

    def close(self) -> None:
        """End the thread, when it has told what it was to tell."""
        self._closed = True
        self._rung.set()

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join(LONGEST_PAUSE)

    def _run(self) -> None:
        spacing = SPACING
        while True:
            self._rung.wait()
            self._rung.clear()
            with self._ringing:
                wanted, self._wanted = self._wanted, set()
            if wanted:
                self._send(sorted(wanted))
            if self._closed and not self._wanted:
                return
            time.sleep(spacing)
            spacing = min(2 * spacing, WIDEST_SPACING) if self._rung.is_set() else SPACING

    def _send(self, names: list[str]) -> None:
        # It need not be on disk before it is sent: what it tells of is.
        notices = [f"NOTIFY {self._channels[name]}" for name in names]
        text = "; ".join(["SET LOCAL synchronous_commit = off", *notices])
        with suppress(Exception):  # a lost notice delays; who waits looks by itself
            self._desk.do(lambda session: self._tell(session, text))

    def _tell(self, session: Session, text: str) -> None:
        now = time.monotonic()
        recent = {pid: sent for pid, sent in self._sent.items() if now - sent < TICK}
        self._sent = recent | {session.pid: now}  # before it is heard
        session.count(text)


class Listener:
    """Hears of the changes of others, from a thread of its own, while somebody is interested.

    Args:
        server: where it listens, on a connection of its own.
        heard: called on the thread with the name of the channel, or None where anything may have
            changed.
        is_own: whether a process of the server speaks for this process: what it sends is no news.
    """

    def __init__(
        self,
        server: Server,
        heard: Callable[[str | None], object],
        is_own: Callable[[int], bool],
    ) -> None:
        self._server = server
        self._heard = heard
        self._is_own = is_own
        self._interested = 0
        self._missed: set[str | None] = set()
        self._wanted = threading.Event()
        self._closed = threading.Event()
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._run, name="sitq-listen", daemon=True)
        self._thread.start()

    @contextmanager
    def interest(self) -> Generator[None]:
        """Changes of others are reported while any such block is open, and at its beginning those
        that came since the last one. On the event loop only.
        """
        self._interested += 1
        self._wanted.set()
        while self._missed:
            self._heard(self._missed.pop())
        try:
            yield
        finally:
            self._interested -= 1
            if not self._interested and not self._closed.is_set():
                self._wanted.clear()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._wanted.set()
        connection = self._connection
        if connection is not None:
            with suppress(OSError, psycopg.Error), _socket_of(connection) as link:
                link.shutdown(socket.SHUT_RDWR)  # whatever it waits for ends now

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join(2 * LONGEST_PAUSE)

    def _run(self) -> None:
        pause = 0.05
        while not self._closed.is_set():
            self._wanted.wait()  # who only enqueues need not hear anything
            if self._server.pooled:
                self._closed.wait(self._server.poll)
                self._tell(ENDED)  # workers look by themselves
            else:
                started = time.monotonic()
                with suppress(psycopg.Error, StoreError, OSError):
                    self._listen()
                pause = 0.05 if time.monotonic() - started > TICK else min(2 * pause, LONGEST_PAUSE)
                self._closed.wait(pause)
                self._tell(None)

    def _listen(self) -> None:
        with self._server.connect() as connection:
            self._connection = connection
            if self._closed.is_set():  # it came too late to be closed
                return
            schema = self._server.schema
            listen = as_query(f"LISTEN {schema}_{WORK}; LISTEN {schema}_{ENDED}")
            connection.execute(listen)
            self._tell(None)  # what was committed before it listened
            last_word = time.monotonic()
            patience = min(TICK, self._server.limit / 2)  # or it is given up as silent
            while not self._closed.is_set():
                notices = [*connection.notifies(timeout=patience, stop_after=1)]
                for name in {one.channel for one in notices if not self._is_own(one.pid)}:
                    self._tell(name.removeprefix(f"{schema}_"))
                if notices:
                    continue
                if self._interested:
                    self._tell(None)
                if time.monotonic() - last_word > self._server.limit / 2:
                    connection.execute(listen)  # again: a line that is dead is silent too
                    last_word = time.monotonic()

    def _tell(self, name: str | None) -> None:
        if self._closed.is_set():
            return
        self._missed.add(name)
        if self._interested:  # now, or it is told when somebody is
            self._missed.discard(name)
            self._heard(name)


def _socket_of(connection: Connection) -> socket.socket:
    return socket.socket(fileno=os.dup(connection.fileno()))

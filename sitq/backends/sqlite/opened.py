"""What exists while a database is open in one event loop: threads, connections, who waits."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from sqlite3 import Connection, Error
from typing import Any, TypeVar

from anyio import CapacityLimiter, move_on_after, to_thread

from sitq.backends.base import Changes, Wanted
from sitq.backends.commit import GroupCommit, Operation
from sitq.backends.lifetime import finish
from sitq.backends.loop import Loop
from sitq.backends.sqlite import recovery
from sitq.backends.sqlite.connect import Database
from sitq.backends.sqlite.driver import CLOSE_LIMIT, Driver
from sitq.backends.sqlite.forks import Claim, claim, release
from sitq.backends.sqlite.inserting import insert_at_once
from sitq.backends.sqlite.turn import Turns
from sitq.backends.sqlite.version import warn_if_shared
from sitq.backends.sqlite.waiters import FileWaiters
from sitq.backends.sqlite.watch import Watch
from sitq.clock import Clock
from sitq.model import Change, NewTask, State

__all__ = ["FileHeart", "Opened"]

T = TypeVar("T")


class Opened:
    """Everything that exists while the file is open in one event loop."""

    def __init__(self, database: Database, loop: Loop) -> None:
        self.pid: int = os.getpid()
        self.work: Changes = Changes()
        """Of what may be there to run."""
        self.ended: Changes = Changes()
        """Of tasks that have ended."""
        self.writer: Driver = Driver(loop)
        self.reader: Driver = self.writer if database.in_memory else Driver(loop)
        turns = Turns(database)
        self.commit: GroupCommit[Connection] = GroupCommit(
            self.writer,
            database.transaction,
            lambda connection, batch: (
                insert_at_once(database, connection, batch) or turns.take(connection, batch)
            ),
        )
        self._looks: GroupCommit[Connection] = GroupCommit(self.reader, nullcontext)
        self.waiters: FileWaiters = FileWaiters(self.reader, database, self.look)
        self._database = database
        self._loop = loop
        self._claim: Claim | None = None
        self._watch: Watch | None = None
        self._version: tuple[Any, ...] | None = None
        """The writer's connection, and what it said last of the commits of others."""
        self._has_heard = False
        self._newest: NewTask | None = None
        """Stored here, and not asked for since."""

    @classmethod
    async def create(cls, database: Database, loop: Loop) -> Opened:
        opened = cls(database, loop)
        database.is_wanted = True
        try:
            await opened.writer.open(database.create, database.renewed)
            if not database.in_memory:
                opened._claim = claim(database.path)
                await opened.reader.open(database.connect, database.renewed)
                await opened.reader.run(lambda c: database.read(c, warn_if_shared))
                opened._watch = Watch(database, opened._hear, opened._ask_writer)
        except BaseException:
            database.is_wanted = False
            await opened.close()
            raise
        return opened

    async def look(self, function: Callable[[Connection], T]) -> T:
        """A small look on the reader's thread, together with those that come at the same moment."""
        looked = Operation[Connection, T](lambda c: self._database.read(c, function))
        return await self._looks.submit(looked)  # pyright: ignore[reportReturnType]

    def is_here(self) -> bool:
        return self._loop.is_current()

    def interest(self) -> AbstractContextManager[None]:
        """While open, changes by other processes are reported."""
        return nullcontext() if self._watch is None else self._watch.interest()

    def new_work(self, tasks: Sequence[NewTask]) -> None:
        """These were stored."""
        self._newest = tasks[-1]
        self.work.notify()

    def takes_new_work(self, wanted: Wanted, now: float) -> bool:
        """Whether a reserve will surely find something: then it need not look before. Once."""
        newest, self._newest = self._newest, None
        return (
            newest is not None
            and newest.run_at <= now
            and newest.name not in wanted.skip
            and (wanted.queues is None or newest.queue in wanted.queues)
        )

    def foreign_change(self) -> None:
        """Anything may have changed."""
        self.work.notify()
        self.ended.notify()
        self.waiters.changed()

    def _hear(self) -> None:
        """Somebody else has changed something. From any thread; what comes before it is heard is
        one.
        """
        if not self._has_heard:
            self._has_heard = True
            self._loop.call(self._heard)

    def _heard(self) -> None:
        self._has_heard = False
        self.foreign_change()

    def _ask_writer(self) -> None:
        self.writer.tell(self._look_for_others)

    def _look_for_others(self, connection: Connection | None) -> None:
        """On the writer's thread: for its connection only the commits of others are changes."""
        version: tuple[Any, ...] | None = None  # unknown: somebody may have changed something
        if connection is not None:
            with suppress(Error):
                version = (connection, *connection.execute("PRAGMA data_version").fetchone())
        if version is None or version != self._version:
            self._version = version
            if self._watch is not None:
                self._watch.others_came()
            self._hear()

    def ends(self, changes: Sequence[Change]) -> None:
        """Runs of this process ended so."""
        ended = [change.seq for change in changes if change.state is not State.PENDING]
        self.waiters.ended_here(ended)
        self.ended.notify()
        if len(ended) < len(changes):
            self.work.notify()

    async def close(self) -> None:
        """Commit what was submitted, then end everything, also when the caller is cancelled."""
        self.waiters.close()
        self.work.notify()
        self.ended.notify()
        await finish(self._close)

    async def _close(self) -> None:
        try:
            await self.commit.drained()
            if self._watch is not None:
                self._watch.close()
                await to_thread.run_sync(self._watch.join, limiter=CapacityLimiter(math.inf))
            with move_on_after(CLOSE_LIMIT, shield=True):
                await self._looks.drained()
            if self.reader is not self.writer:
                await self.reader.close()
            await self.writer.close()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let the threads end, without waiting for them. In a forked child there are none."""
        if self.pid != os.getpid():
            return
        if self._watch is not None:
            self._watch.close()
        for driver in {self.reader, self.writer}:
            driver.abandon()
        if self._claim is not None:
            release(self._claim)


class FileHeart:
    """Renews a lease on a connection of its own, from a thread of its own."""

    def __init__(self, database: Database, clock: Clock, worker: int) -> None:
        self._database = database
        self._clock = clock
        self._worker = worker
        self._boot = recovery.boot_id()
        self._connection: Connection | None = None

    def beat(self, lag: float) -> bool:
        # As durable as all else: once a sync has failed, Linux forgets what was not synced before,
        # and with such a gap in the log all that was committed after it is lost with the power.
        if self._connection is None:
            self._connection = self._database.connect()
        self._connection = self._database.renewed(self._connection)
        with self._database.transaction(self._connection):
            return recovery.beat(
                self._connection, self._worker, self._boot, self._clock.monotonic(), lag
            )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

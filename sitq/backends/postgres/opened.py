"""What exists while a store is open in one event loop: threads, connections, who waits."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, Generic, TypeVar

import psycopg
from anyio import CapacityLimiter, move_on_after, to_thread

from sitq.backends.base import Changes
from sitq.backends.commit import GroupCommit, Operation
from sitq.backends.lifetime import finish
from sitq.backends.loop import Loop
from sitq.backends.postgres.connect import Connection, Server, as_query
from sitq.backends.postgres.driver import CLOSE_LIMIT, Driver, Session
from sitq.backends.postgres.inserting import Insert
from sitq.backends.postgres.listen import ENDED, WORK, Bell, Listener
from sitq.backends.postgres.migrate import prepared
from sitq.backends.postgres.queries import Queries, queries
from sitq.backends.postgres.recovery import beat
from sitq.backends.postgres.settling import Settle
from sitq.backends.postgres.verbs import Reserve
from sitq.backends.postgres.waiters import GroupWaiters, ServerWaiters
from sitq.model import Change, State

__all__ = ["Opened", "Repeatable", "ServerHeart"]

T = TypeVar("T")

MINUTE = 60.0
JUMP = 0.5
"""Seconds by which the clocks of a machine do not part from each other by themselves."""


class Opened:
    """Everything that exists while the store is open in one event loop."""

    def __init__(self, server: Server, loop: Loop, size: int, outage_limit: float) -> None:
        self.pid: int = os.getpid()
        self.sql: Queries = queries(server.schema)
        self.store: str = ""
        """Names the store: it was drawn when the tables were made."""
        self.offset: float = 0.0
        """Seconds from the monotonic clock of this machine to the server's clock."""
        self._read_at = self._ahead = 0.0
        self.work: Changes = Changes()
        """Of what may be there to run."""
        self.driver: Driver = Driver(server, loop, size, outage_limit)
        self.inserts: GroupCommit[Session] = GroupCommit(self.driver, _not_used, self._insert)
        """Of what is enqueued without keys."""
        self.keyed: GroupCommit[Session] = GroupCommit(self.driver, _not_used, self._insert)
        """Of what is enqueued with keys: it may have to wait for who just stores the same ones."""
        self.children: GroupCommit[Session] = GroupCommit(self.driver, _not_used, _together)
        """Of what is enqueued in groups."""
        self.commit: GroupCommit[Session] = GroupCommit(self.driver, _not_used, _one_by_one)
        """Of rare writes."""
        self.ends: GroupCommit[Session] = GroupCommit(self.driver, _not_used, self._settle)
        """Of what workers settle."""
        self.wishes: GroupCommit[Session] = GroupCommit(self.driver, _not_used, _one_by_one)
        """Of what they reserve, at the same time."""
        self._looks: GroupCommit[Session] = GroupCommit(self.driver, _not_used, _look)
        self.waiters: ServerWaiters = ServerWaiters(self.driver, self.sql, server.place, self.look)
        self.groups: GroupWaiters = GroupWaiters(self.driver, self.sql)
        self._server = server
        self._loop = loop
        self._bell: Bell | None = None
        self._listener: Listener | None = None
        self._heard: set[str | None] = set()
        self._hearing = threading.Lock()

    @classmethod
    async def create(cls, server: Server, loop: Loop, size: int, outage_limit: float) -> Opened:
        opened = cls(server, loop, size, outage_limit)
        try:
            threads = CapacityLimiter(math.inf)
            await to_thread.run_sync(opened._prepare, limiter=threads, abandon_on_cancel=True)
            opened.driver.open()
            bell = None if server.pooled else Bell(opened.driver.desk, server)
            opened._bell = bell
            is_own = bell.is_own if bell is not None else _nobody
            opened._listener = Listener(server, opened._hear, is_own)
        except BaseException:
            await opened.close()
            raise
        return opened

    def _prepare(self) -> None:
        with self._server.judged(), self._server.connect() as connection:
            self.store = prepared(connection, self._server)
            self._read_clock(lambda query: connection.execute(as_query(query)))

    def keep_time(self, session: Session) -> None:
        """See how far the clock of the server is from that of this machine."""
        self._read_clock(session.rows)

    async def time_is_right(self) -> None:
        """See to it that the offset is no older than a minute, nor than a jump of the clocks here.

        The monotonic clock stands still while a machine sleeps.
        """
        if abs(_ahead() - self._ahead) > JUMP:
            await self.driver.run(self.keep_time)
        elif time.monotonic() - self._read_at > MINUTE:
            self._read_at = time.monotonic()  # whether it succeeds or not: it is about to
            self.driver.post(lambda turn: turn.do(self.keep_time), _ignore)

    def _read_clock(self, ask: Callable[[str], Any]) -> None:
        before = time.monotonic()
        [(seconds,)] = ask(self.sql["seconds"])
        self._read_at, self._ahead = time.monotonic(), _ahead()
        self.offset = seconds - (before + self._read_at) / 2

    async def look(self, function: Callable[[Session], T]) -> T:
        """A small look, together with those that come at the same moment."""
        looked = Operation(function)
        return await self._looks.submit(looked)  # pyright: ignore[reportReturnType]

    def is_here(self) -> bool:
        return self._loop.is_current()

    def interest(self) -> AbstractContextManager[None]:
        """While open, changes by other processes are reported."""
        assert self._listener is not None
        return self._listener.interest()

    def new_work(self) -> None:
        """Something was stored here that is to be run, of which others are still to be told."""
        self.work.notify()
        self._ring(WORK)

    def settled(self, changes: Sequence[Change]) -> None:
        """Runs of this process ended so."""
        ended = [change.seq for change in changes if change.state is not State.PENDING]
        self.waiters.ended_here(ended)
        self.groups.changed()
        if len(ended) < len(changes):
            self.new_work()

    def changed(self) -> None:
        """Anything may have been changed from here."""
        self._changed(None)
        self._ring(WORK, ENDED)

    def _insert(self, turn: Any, batch: Sequence[Operation[Session, Any]]) -> bool:
        """Store what all of these bring by one statement, which takes keys in their order.

        In one statement after the other two programs could wait for each other's keys. On a thread
        of the driver: others are told before the callers here are answered.
        """
        wishes: list[Any] = [operation.apply for operation in batch]
        whole: Insert = wishes[0]._replace(tasks=[task for wish in wishes for task in wish.tasks])
        ids = iter(turn.do(whole))
        self._ring(WORK)
        for operation, wish in zip(batch, wishes, strict=True):
            operation.result = [next(ids) for _ in wish.tasks]
        return True

    def _settle(self, turn: Any, batch: Sequence[Operation[Session, Any]]) -> bool:
        """Bring ends home, and tell others. On a thread of the driver."""
        done = _one_by_one(turn, batch)
        self._ring(ENDED)
        return done

    def _ring(self, *what: str) -> None:
        if self._bell is not None:
            self._bell.ring(*what)

    def _hear(self, what: str | None) -> None:
        """Somebody else has changed something. From any thread; what comes before it is heard is
        one.
        """
        with self._hearing:
            is_first = not self._heard
            self._heard.add(what)
        if is_first:
            self._loop.call(self._hear_all)

    def _hear_all(self) -> None:
        with self._hearing:
            heard, self._heard = self._heard, set()
        for what in (None,) if None in heard else heard:
            self._changed(what)

    def _changed(self, what: str | None) -> None:
        if what != ENDED:
            self.work.notify()
        if what != WORK:
            self.groups.changed()
            self.waiters.changed()

    async def close(self) -> None:
        """Commit what was submitted, then end everything, also when the caller is cancelled."""
        self.waiters.close()
        self.groups.close()
        self.work.notify()
        await finish(self._close)

    async def _close(self) -> None:
        try:
            self.driver.desk.is_wanted = False
            with move_on_after(CLOSE_LIMIT, shield=True):
                for commit in (
                    *(self.inserts, self.keyed, self.children, self.commit),
                    *(self.ends, self.wishes, self._looks),
                ):
                    await commit.drained()
            threads = CapacityLimiter(math.inf)
            for part in (self._bell, self._listener):
                if part is not None:
                    part.close()
                    await to_thread.run_sync(part.join, limiter=threads)
            await self.driver.close()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let the threads end, without waiting for them. In a forked child there are none."""
        if self.pid != os.getpid():
            return
        for part in (self._bell, self._listener):
            if part is not None:
                part.close()
        self.driver.abandon()


class ServerHeart:
    """Renews a lease on a connection of its own, from a thread of its own."""

    def __init__(self, server: Server, worker: int, monotonic: Callable[[], float | None]) -> None:
        self._server = server
        self._sql = queries(server.schema)
        self._worker = worker
        self._monotonic = monotonic
        self._connection: Connection | None = None

    def beat(self, lag: float) -> bool:
        with self._server.judged():
            if self._connection is not None and not self._connection.closed:
                with suppress(psycopg.OperationalError):  # on a new one, then
                    return self._beat(self._connection, lag)
                self._connection.close()
            self._connection = self._server.connect()
            return self._beat(self._connection, lag)

    def _beat(self, connection: Connection, lag: float) -> bool:
        session = Session(connection, again=False)
        lease = session.row(self._sql["lease_of"], {"worker": self._worker})
        if lease is not None:  # there is to be time for another beat
            connection.limit = min(self._server.limit, lease[0] / 3)
        return beat(session, self._sql, self._worker, self._monotonic(), lag)

    def close(self) -> None:
        if self._connection is not None:
            with suppress(Exception):
                self._connection.close()


def _ahead() -> float:
    """Seconds by which the wall clock of this machine is ahead of its monotonic one."""
    return time.time() - time.monotonic()


class Repeatable(Generic[T]):
    """Work that does no harm if it is done twice, where its first answer was lost."""

    repeatable = True

    def __init__(self, work: Callable[[Session], T]) -> None:
        self._work = work

    def __call__(self, session: Session) -> T:
        return self._work(session)


def _nobody(_: int) -> bool:
    """Nobody speaks for this process."""
    return False


def _ignore(result: object, error: BaseException | None) -> None:
    """Takes an answer that nobody needs."""


def _together(turn: Any, batch: Sequence[Operation[Session, Any]]) -> bool:
    """Do what all of these want in one transaction.

    Args:
        turn: of the driver: it does the batch again when the connection is lost under it.
        batch: operations that wait for none of each other's rows.
    """

    def transaction(session: Session) -> None:
        session.transaction(partial(_apply, batch))

    turn.do(transaction)
    return True


def _one_by_one(turn: Any, batch: Sequence[Operation[Session, Any]]) -> bool:
    """Do each in a transaction of its own, for together they would hold rows in any order."""
    for operation in batch:
        wish: Any = operation.apply
        repeatable: bool = getattr(wish, "repeatable", False)
        try:
            operation.result = turn.do(partial(_done, wish), repeatable=repeatable)
        except Exception as error:  # each caller's own
            operation.error = error
    return True


def _done(wish: Any, session: Session) -> Any:
    if isinstance(wish, Reserve):
        return session.at_once(wish)
    if isinstance(wish, Settle) and not (session.again or wish.again):
        return wish.plainly(session)
    return session.transaction(wish)


def _look(turn: Any, batch: Sequence[Operation[Session, Any]]) -> bool:
    turn.do(partial(_apply, batch))
    return True


def _apply(batch: Sequence[Operation[Session, Any]], session: Session) -> None:
    for operation in batch:
        operation.result = operation.apply(session)


def _not_used(_: object) -> Any:
    """A transaction: every batch is done at once."""
    raise AssertionError

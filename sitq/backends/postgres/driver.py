"""Runs plain functions on threads of its own, which borrow connections from a pool.

No driver of PostgreSQL runs on trio, so psycopg works in threads, on both loops alike. A function
is a whole piece of work: nothing on the event loop can interrupt it halfway. When the connection is
lost under it, it is done again on another one, if that cannot do harm.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, TypeVar

import anyio
import psycopg
from anyio import CapacityLimiter, to_thread
from psycopg import errors as pg
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from sitq.backends.commit import ask
from sitq.backends.loop import Loop
from sitq.backends.postgres.connect import (
    Connection,
    NoAnswer,
    Server,
    as_query,
    is_passing,
    raise_as_ours,
)
from sitq.errors import NotOpen, StoreUnavailable

__all__ = ["Desk", "Driver", "Session", "Turn"]

T = TypeVar("T")

CLOSE_LIMIT = 10.0
"""Seconds for which closing waits for what is under way."""
PAUSES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Seconds, jittered, before something is tried again; the last one from then on."""
CONNECT_LIMIT = 2.0
"""Seconds for which a connection is waited for before that is a failure, to be tried again."""
LEAST_TRIES = 10
"""However short the outage limit is, of what lost a conflict with others."""
_CONFLICTS = (pg.DeadlockDetected, pg.SerializationFailure)
LEAST_WAIT = 0.25
"""Seconds for which one is waited for by who has waited for long already."""


class Session:
    """A connection while one piece of work is done on it.

    Args:
        connection: of the pool.
        again: the work may have been done already: its answer was lost.
    """

    __slots__ = ("_connection", "again", "commits")

    def __init__(self, connection: Connection, *, again: bool) -> None:
        self._connection = connection
        self.again: bool = again
        self.commits: bool = False
        """Whether something of the work may have been committed, should it fail now."""

    def rows(self, query: str, values: Mapping[str, Any] | None = None) -> list[Any]:
        """What a query answers."""
        cursor = self._connection.execute(as_query(query), values, binary=True)
        return cursor.fetchall() if cursor.description else []

    def row(self, query: str, values: Mapping[str, Any] | None = None) -> Any:
        """The first row of an answer, or None."""
        found = self.rows(query, values)
        return found[0] if found else None

    def count(self, query: str, values: Mapping[str, Any] | None = None) -> int:
        """How many rows a statement changed."""
        return self._connection.execute(as_query(query), values).rowcount

    @property
    def pid(self) -> int:
        """The number of the server's process at the other end."""
        return self._connection.info.backend_pid

    def at_once(self, work: Callable[[Session], T]) -> T:
        """Do what is one statement: it is a transaction of its own."""
        self.commits = True
        return work(self)

    def transaction(self, work: Callable[[Session], T]) -> T:
        """Do it in a transaction, which is committed at the end, or rolled back."""
        commits = self.commits
        self._connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        try:
            result = work(self)
            self.commits = True
            self._connection.execute("COMMIT")
        except BaseException:
            if not self._connection.closed:
                self.commits = commits
                with suppress(psycopg.Error):
                    self._connection.rollback()
            raise
        return result


class Desk:
    """Does pieces of work on connections of a pool, again and again while it is lost under them.

    Args:
        server: where the connections lead to.
        pool: lends them.
        outage_limit: seconds for which a lost connection is looked for anew.
    """

    def __init__(
        self, server: Server, pool: ConnectionPool[Connection], outage_limit: float
    ) -> None:
        self._server = server
        self._pool = pool
        self._outage_limit = outage_limit
        self.is_wanted: bool = True
        """No, once it is being closed: then nothing is tried again."""
        self._spare: list[Connection] = []
        """Of the pool: those that were used and wait for more, the last one at the end."""
        self._silent = 0.0
        """When the server last failed to answer: older connections may be dead as well."""

    def do(
        self, work: Callable[[Session], T], *, repeatable: bool = True, asked: float | None = None
    ) -> T:
        """Do it, and answer what it returned. On the thread of the caller.

        Args:
            work: to be done.
            repeatable: it does no harm to do it twice, where the first answer was lost.
            asked: when somebody began to wait for it; default: now.

        Raises:
            StoreError: it could not be done.
        """
        started = time.monotonic() if asked is None else asked
        patience = started + max(self._outage_limit, CONNECT_LIMIT)
        again = False
        for tries, pause in enumerate(chain(PAUSES, repeat(PAUSES[-1])), 1):
            try:
                return self._once(work, patience, again=again)
            except _Lost as lost:
                again = again or lost.maybe_done
                is_over = time.monotonic() - started >= self._outage_limit or not self.is_wanted
                if lost.is_conflict:  # no outage: somebody else has won, and goes on
                    is_over = is_over and tries >= LEAST_TRIES
                if is_over or (again and not repeatable):
                    what = "it may have been done" if again else "nothing of it was done"
                    raise StoreUnavailable(
                        f"{self._server.place}: {lost.__cause__}: {what}; try again later"
                    ) from lost.__cause__
            time.sleep(random.uniform(0.5, 1.0) * pause)
        raise AssertionError  # there is always a next pause

    def _once(self, work: Callable[[Session], T], patience: float, *, again: bool) -> T:
        try:
            connection = self._borrow(patience)
        except (PoolTimeout, PoolClosed) as error:
            raise _Lost(maybe_done=False) from error
        session = Session(connection, again=again)
        try:
            return work(session)
        except psycopg.Error as error:
            if isinstance(error, NoAnswer):
                self._silent = time.monotonic()
            if is_passing(error, connection):
                is_conflict = isinstance(error, _CONFLICTS)
                raise _Lost(maybe_done=session.commits, is_conflict=is_conflict) from error
            raise_as_ours(error, self._server.place)
        finally:
            self._give_back(connection)

    def _borrow(self, patience: float) -> Connection:
        """A connection that was made since the server was last silent; if there is one, the last
        that was used, for its process on the server has all at hand.
        """
        while True:
            try:
                connection = self._spare.pop()
            except IndexError:
                left = max(LEAST_WAIT, patience - time.monotonic())
                connection = self._pool.getconn(timeout=min(left, CONNECT_LIMIT))
            if connection.born >= self._silent:
                return connection
            connection.close()
            self._pool.putconn(connection)

    def _give_back(self, connection: Connection) -> None:
        is_idle = connection.info.transaction_status == TransactionStatus.IDLE
        if is_idle and self.is_wanted:
            self._spare.append(connection)
        else:
            self._pool.putconn(connection)

    def close(self) -> None:
        """Give up the connections. Takes up to `CONNECT_LIMIT`."""
        self.is_wanted = False
        with suppress(IndexError):
            while True:
                self._pool.putconn(self._spare.pop())
        self._pool.close(timeout=CONNECT_LIMIT)


class Turn(NamedTuple):
    """A desk for one piece of work, with the time since which somebody waits for it."""

    desk: Desk
    asked: float

    def do(self, work: Callable[[Session], T], *, repeatable: bool = True) -> T:
        """As `Desk.do`."""
        return self.desk.do(work, repeatable=repeatable, asked=self.asked)


class _Lost(Exception):
    """The connection was lost, or there was none."""

    def __init__(self, *, maybe_done: bool, is_conflict: bool = False) -> None:
        super().__init__()
        self.maybe_done = maybe_done
        self.is_conflict = is_conflict


class Driver:
    """The connections to a server, and the threads that use them.

    Args:
        server: where they lead to.
        loop: where answers go.
        size: how many connections there are at most: one for each thread, and one to send notices.
            So nobody waits for one that somebody else has.
        outage_limit: seconds for which a lost connection is looked for anew.
    """

    def __init__(self, server: Server, loop: Loop, size: int, outage_limit: float) -> None:
        self._loop = loop
        self._size = size - 1
        self._jobs: SimpleQueue[Callable[[], object] | None] | None = SimpleQueue()
        self._threads: list[Thread] = []
        self._posted = 0
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            server.conninfo,
            connection_class=Connection,
            kwargs=server.options,
            configure=server.configure,
            min_size=1,
            max_size=size,
            open=False,
            num_workers=1,
            name="sitq",
            reconnect_timeout=CONNECT_LIMIT / 4,  # who wants a connection next tries again
        )
        self.desk: Desk = Desk(server, self._pool, outage_limit)

    def open(self) -> None:
        """Begin to connect."""
        self._pool.open()

    def post(
        self, work: Callable[[Any], Any], done: Callable[[Any, BaseException | None], None]
    ) -> None:
        """Run ``work(turn)`` on a thread, then ``done(result, error)`` on the loop."""

        turn = Turn(self.desk, time.monotonic())

        def job() -> None:
            try:
                result, error = work(turn), None
            except BaseException as caught:  # handed to the caller
                result, error = None, caught
            self._loop.call(partial(self._answered, done, result, error))

        if self._jobs is None:
            raise NotOpen("the store was closed; use it inside 'async with backend'")
        self._posted += 1
        if self._posted > len(self._threads) < self._size:
            thread = Thread(target=_work, args=(self._jobs,), name="sitq-postgres", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put(job)

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back on the loop, after the tasks that are ready now have run."""
        self._loop.soon(callback)

    async def run(self, work: Callable[[Session], T]) -> T:
        """Run ``work(session)`` on a thread and wait for its result.

        A caller that is cancelled leaves; the work is done all the same.
        """
        return await ask(self, lambda turn: turn.do(work))

    async def close(self) -> None:
        """Wait for what was posted, then end the threads and the connections."""
        self.desk.is_wanted = False
        with anyio.move_on_after(CLOSE_LIMIT, shield=True):
            while self._posted:
                event = anyio.Event()
                self.post(_nothing, lambda _, __, done=event: done.set())
                await event.wait()
            threads = CapacityLimiter(math.inf)
            await to_thread.run_sync(self.desk.close, limiter=threads, abandon_on_cancel=True)
        self.abandon()

    def abandon(self) -> None:
        """End the threads and the connections, without waiting for them."""
        self.desk.is_wanted = False
        jobs, self._jobs = self._jobs, None
        if jobs is not None:
            for _ in self._threads:
                jobs.put(None)
            if not self._pool.closed:
                with suppress(RuntimeError):  # the interpreter ends, and with it all threads
                    Thread(target=self.desk.close, name="sitq-close", daemon=True).start()

    def _answered(
        self,
        done: Callable[[Any, BaseException | None], None],
        result: object,
        error: BaseException | None,
    ) -> None:
        self._posted -= 1
        done(result, error)


def _nothing(_: object) -> None:
    """Work that only comes after other work."""


def _work(jobs: SimpleQueue[Callable[[], object] | None]) -> None:
    while (job := jobs.get()) is not None:
        job()

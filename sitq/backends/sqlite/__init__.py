"""The embedded store: one SQLite file, shared by any number of processes of one machine."""

from __future__ import annotations

import os
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from sqlite3 import Connection
from typing import Any, Literal, TypeVar

import anyio

from sitq.backends.base import ANY_SIZE, Filter, Heart, Pruned, Recovered, Sweep, Wanted
from sitq.backends.commit import Operation
from sitq.backends.loop import Loop
from sitq.backends.sqlite import recovery, verbs
from sitq.backends.sqlite.connect import Database
from sitq.backends.sqlite.inserting import Insert
from sitq.backends.sqlite.opened import FileHeart, Opened
from sitq.backends.sqlite.turn import Reserve, Reserved, Settle
from sitq.backends.sqlite.version import warn_if_shared
from sitq.clock import Clock
from sitq.errors import InvalidOption, NotOpen
from sitq.model import Change, NewTask, Reservation, State, TaskRow, WorkerRecord, WorkerRow
from sitq.naming import shown
from sitq.options import check_seconds

__all__ = ["SQLiteBackend"]

T = TypeVar("T")


class SQLiteBackend:
    """Stores tasks in one SQLite file, or in memory.

    It opens itself at its first use, and stays open then until the event loop ends or `close` is
    called. ``async with backend`` opens and closes it; so do workers and queues that are entered,
    and the last one to leave closes it.

    Args:
        path: the file, created with mode 0600 if it is missing, in a folder that exists;
            ``":memory:"`` keeps everything in this object.
        synchronous: ``"FULL"``: what was enqueued survives a loss of power. ``"NORMAL"``: the last
            moments before a loss of power may be missing, a killed process loses nothing.
        busy_limit: seconds for which a locked database is tried again before
            `sitq.errors.StoreUnavailable` is raised.
        clock: the source of time, for tests.

    Raises:
        InvalidOption: an option is not one of these.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        busy_limit: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        text = _checked(path)
        if synchronous not in ("FULL", "NORMAL"):
            raise InvalidOption(f"synchronous must be 'FULL' or 'NORMAL': {shown(synchronous)}")
        if text != ":memory:":
            text = os.path.realpath(text)  # a later change of folder is not to matter
        self._database = Database(text, synchronous, check_seconds("busy_limit", busy_limit))
        self._clock = clock or Clock()
        self._opened: Opened | None = None
        self._silent: defaultdict[int, dict[int, tuple[Any, int]]] = defaultdict(dict)
        self._users = 0
        self._closed = False
        self._opening: anyio.Lock | None = None
        self._loop: Loop | None = None
        self._finalizer: weakref.finalize[[], SQLiteBackend] | None = None

    def __repr__(self) -> str:
        return f"SQLiteBackend({self._database.path!r})"

    @property
    def clock(self) -> Clock:
        """The source of time."""
        return self._clock

    async def open(self) -> None:
        """Open the file; counted, so that each `open` needs its `close`."""
        self._join_loop()
        self._users += 1
        was_closed, self._closed = self._closed, False
        try:
            await self._ready()
        except BaseException:
            self._users -= 1
            self._closed = was_closed and self._users == 0
            raise

    async def close(self) -> None:
        """Close the file when every `open` has its `close`. Whoever waits gets `NotOpen`.

        A backend that opened itself at its first use counts as opened once more.
        """
        self._join_loop()
        self._users = max(0, self._users - 1)
        if self._users == 0:
            self._closed = True
            opened, self._opened = self._opened, None
            if opened is not None:
                self._forget()
                await opened.close()

    async def __aenter__(self) -> SQLiteBackend:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def insert(self, tasks: Sequence[NewTask]) -> list[bytes]:
        if not tasks:
            return []
        opened = await self._ready()
        size = sum(len(task.arguments) for task in tasks)
        ids = await opened.commit.submit(
            Operation(
                Insert(tasks),
                rows=len(tasks),
                size=size,
                deliver=lambda _: opened.new_work(tasks),
            )
        )
        assert ids is not None
        return ids

    async def hire(self, record: WorkerRecord) -> int:
        def enter(connection: Connection) -> int:
            warn_if_shared(connection)
            now, monotonic = self._clock.time(), self._clock.monotonic()
            return recovery.hire(connection, record, now, monotonic)

        return await self._write(enter)

    async def dismiss(self, worker: int) -> None:
        self._silent.pop(worker, None)
        await self._write(
            lambda connection: connection.execute(verbs.SQL["dismiss"], (worker,)) and None
        )

    async def workers(self) -> list[WorkerRow]:
        return await self._read(lambda c: recovery.workers(c, self._clock.monotonic()))

    def heart(self, worker: int) -> Heart | None:
        return None if self._database.in_memory else FileHeart(self._database, self._clock, worker)

    async def reserve(
        self, worker: int, wanted: Wanted, deliver: Callable[[list[Reservation]], None]
    ) -> float | None:
        opened = await self._ready()
        now = self._clock.time()
        due: float | None = None

        def is_needed(connection: Connection) -> bool:
            nonlocal due
            if self._database.read(connection, lambda c: verbs.is_ready(c, wanted, now)):
                return True
            due = self._database.read(connection, lambda c: verbs.next_due(c, wanted, now))
            return False

        def hand_out(found: Reserved) -> None:
            nonlocal due
            due = found.due
            deliver(found.tasks)
            if found.damaged:  # who waits for these is told, and the worker asks for others
                opened.foreign_change()

        wish = Reserve(worker, wanted, now)
        needed = None if opened.takes_new_work(wanted, now) else is_needed
        await opened.commit.submit(
            Operation(wish, rows=wanted.limit, needed=needed, deliver=hand_out)
        )
        return due

    async def settle(
        self,
        worker: int,
        changes: Sequence[Change],
        deliver: Callable[[set[int]], None] | None = None,
    ) -> set[int]:
        opened = await self._ready()
        now = self._clock.time()

        def settled_now(settled: set[int]) -> None:
            opened.ends(changes)
            if len(settled) < len(changes):  # some may have failed, as their rows are damaged
                opened.waiters.changed()
            if deliver is not None:
                deliver(settled)

        settled = await opened.commit.submit(
            Operation(
                Settle(worker, changes, now),
                rows=len(changes),
                size=sum(len(change.value or change.error or b"") for change in changes),
                deliver=settled_now,
            )
        )
        return settled or set()

    async def cancelled(self, worker: int) -> set[int]:
        def look(connection: Connection) -> set[int]:
            return {row[0] for row in connection.execute(verbs.SQL["cancelled"], (worker,))}

        return await self._read(look)

    async def recover(self, worker: int, rules: Sweep) -> Recovered:
        opened = await self._ready()
        asked = self._clock.monotonic()
        strangers: list[int] = []
        if rules.unknown:
            strangers = await self._read(lambda c: recovery.find_unknown(c, rules))

        def sweep(connection: Connection) -> Recovered:
            now, monotonic = self._clock.time(), self._clock.monotonic()
            silent = self._silent[worker]
            return recovery.recover(
                connection, worker, now, monotonic, rules, strangers, asked, silent
            )

        recovered = await opened.commit.submit(
            Operation(sweep, deliver=lambda found: opened.ends((*found.crashed, *found.settled)))
        )
        assert recovered is not None
        if not self._database.in_memory:
            await opened.writer.run(self._database.checkpoint)
        return recovered

    async def cancel(self, id: bytes) -> State | None:
        return await self._write(lambda c: verbs.cancel(c, id, self._clock.time()))

    async def revive(self, id: bytes) -> State | None:
        return await self._write(lambda c: verbs.revive(c, id, self._clock.time()))

    async def get(self, id: bytes, largest: int = ANY_SIZE) -> TaskRow | None:
        opened = await self._ready()
        return await opened.look(lambda c: verbs.get(c, id, largest))

    async def find(self, wanted: Filter, *, after: int, limit: int) -> list[TaskRow]:
        return await self._read(lambda c: verbs.find(c, wanted, after, limit))

    async def counts(self, queue: str | None = None) -> Mapping[State, int]:
        return await self._read(lambda connection: verbs.counts(connection, queue))

    async def prune(
        self, wanted: Filter, *, ended_before: float, limit: int, after: int = 0
    ) -> Pruned:
        ends, last = await self._read(
            lambda c: verbs.prunable(c, wanted, ended_before, limit, after)
        )
        # Found on the reader, so that the lock is held for the deletion alone.
        deleted = await self._write(lambda c: verbs.prune(c, ends)) if ends else 0
        return Pruned(deleted, last)

    async def ended(self, id: bytes, largest: int = ANY_SIZE) -> TaskRow | None:
        opened = await self._ready()
        with opened.interest():
            return await opened.waiters.ended(id, largest)

    def token(self) -> int:
        return 0 if self._opened is None else self._opened.work.token()

    async def changed(self, token: int) -> None:
        opened = await self._ready()
        with opened.interest():
            await opened.work.passed(token)

    async def _write(self, work: Callable[[Connection], T]) -> T:
        """A rare write: everybody is told, since it may concern anybody."""
        opened = await self._ready()
        operation = Operation(work, deliver=lambda _: opened.foreign_change())
        return await opened.commit.submit(operation)  # pyright: ignore[reportReturnType]

    async def _read(self, look: Callable[[Connection], T]) -> T:
        opened = await self._ready()
        return await opened.reader.run(lambda c: self._database.read(c, look))

    async def _ready(self) -> Opened:
        """What is open in this event loop; opened now if need be."""
        opened = self._opened
        if opened is not None and opened.pid == os.getpid() and opened.is_here():
            return opened
        self._join_loop()
        assert self._opening is not None
        async with self._opening:
            if self._opened is None:
                await self._open_now()
            assert self._opened is not None
            return self._opened

    async def _open_now(self) -> None:
        self._check_not_closed()
        opens_itself = self._users == 0
        opened = await Opened.create(self._database, self._loop or Loop())
        if self._closed:  # meanwhile
            await opened.close()
            self._check_not_closed()
        self._opened = opened
        self._users += opens_itself  # nobody else's close is to end what opened itself
        # Whoever drops a backend without closing it leaves no threads behind.
        self._finalizer = weakref.finalize(self, opened.abandon)
        self._finalizer.atexit = False

    def _check_not_closed(self) -> None:
        if self._closed:
            raise NotOpen(f"{self!r} was closed; use it inside 'async with backend'")

    def _forget(self) -> None:
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None

    def _join_loop(self) -> None:
        """Make this event loop the backend's; what an ended one left open is dropped."""
        loop = Loop()
        before = self._loop
        if self._opened is not None and self._opened.pid != os.getpid():
            raise NotOpen(f"{self!r} was opened before a fork; make a new one in the child")
        if before is not None and before.native is loop.native:
            return
        if before is not None and self._opened is not None:
            if not before.ended():
                raise NotOpen(f"{self!r} is open in another event loop; make one for each loop")
            self._opened.abandon()
        self._forget()
        self._loop = loop
        self._opened = None
        self._users = 0
        self._closed = False
        self._opening = anyio.Lock()


def _checked(path: object) -> str:
    try:
        text = os.fspath(path)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownVariableType]
        if isinstance(text, str) and text and b"\0" not in os.fsencode(text):
            return text
    except (TypeError, UnicodeEncodeError):
        pass
    raise InvalidOption(f"path must name a file or be ':memory:': {shown(path)}")

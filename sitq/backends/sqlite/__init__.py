"""The embedded store: one SQLite file, shared by any number of processes of one machine."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from sqlite3 import Connection
from typing import Literal, TypeVar

from sitq.backends.base import ANY_SIZE, Filter, Heart, Pruned, Recovered, Sweep, Wanted
from sitq.backends.commit import Operation
from sitq.backends.lifetime import Lifetime
from sitq.backends.pruning import prunable
from sitq.backends.silence import Silences
from sitq.backends.sqlite import groups, recovery, verbs
from sitq.backends.sqlite.connect import Database
from sitq.backends.sqlite.inserting import Insert
from sitq.backends.sqlite.opened import FileHeart, Opened
from sitq.backends.sqlite.settling import Settled
from sitq.backends.sqlite.turn import Reserve, Reserved, Settle
from sitq.backends.sqlite.version import warn_if_shared
from sitq.backends.sqlite.within import insert_here, insert_within
from sitq.clock import Clock
from sitq.errors import InvalidOption
from sitq.model import (
    Change,
    ChildEnd,
    Group,
    NewChild,
    NewGroup,
    NewTask,
    Note,
    Reservation,
    State,
    TaskRow,
    WorkerRecord,
    WorkerRow,
)
from sitq.naming import shown
from sitq.options import check_seconds

__all__ = ["SQLiteBackend"]

T = TypeVar("T")


class SQLiteBackend(Lifetime[Opened]):
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
        database = Database(text, synchronous, check_seconds("busy_limit", busy_limit))
        super().__init__(text, lambda loop: Opened.create(database, loop))
        self._database = database
        self._clock = clock or Clock()
        self._silences: defaultdict[int, Silences] = defaultdict(Silences)

    @property
    def clock(self) -> Clock:
        """The source of time."""
        return self._clock

    @property
    def place(self) -> str:
        """Names the store: equal for two backends that lead to the same tasks."""
        path = self._database.path
        return f"memory:{id(self)}" if self._database.in_memory else f"sqlite:{path}"

    async def now(self) -> float:
        return self._clock.time()

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

    async def insert_within(self, connection: object, tasks: Sequence[NewTask]) -> list[bytes]:
        self._check_opened()
        return await insert_within(self._database, connection, tasks) if tasks else []

    def insert_here(self, connection: object, tasks: Sequence[NewTask]) -> list[bytes]:
        is_open = self._opened is not None and self._opened.pid == os.getpid()
        return insert_here(self._database, connection, tasks, is_open=is_open) if tasks else []

    async def hire(self, record: WorkerRecord) -> int:
        def enter(connection: Connection) -> int:
            warn_if_shared(connection)
            now, monotonic = self._clock.time(), self._clock.monotonic()
            return recovery.hire(connection, record, now, monotonic)

        return await self._write(enter)

    async def dismiss(self, worker: int) -> None:
        self._silences.pop(worker, None)
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

        def settled_now(settled: Settled) -> None:
            opened.ends(changes)
            if not settled.is_all:
                opened.foreign_change()
            if deliver is not None:
                deliver(settled.seqs)

        settled = await opened.commit.submit(
            Operation(
                Settle(worker, changes, now),
                rows=len(changes),
                size=sum(len(change.value or change.error or b"") for change in changes),
                deliver=settled_now,
            )
        )
        return settled.seqs if settled else set()

    async def progress(self, worker: int, notes: Sequence[Note]) -> None:
        if notes:
            opened = await self._ready()
            await opened.commit.submit(
                Operation(lambda c: verbs.progress(c, worker, notes), rows=len(notes))
            )

    async def cancelled(self, worker: int, children: Sequence[int] = ()) -> set[int]:
        def look(connection: Connection) -> set[int]:
            return verbs.cancelled(connection, worker, children)

        return await self._read(look)

    async def recover(self, worker: int, rules: Sweep) -> Recovered:
        opened = await self._ready()
        asked = self._clock.monotonic()
        strangers: list[int] = []
        if rules.unknown:
            strangers = await self._read(lambda c: recovery.find_unknown(c, rules))

        def sweep(connection: Connection) -> Recovered:
            now, monotonic = self._clock.time(), self._clock.monotonic()
            silences = self._silences[worker]
            return recovery.recover(
                connection, worker, now, monotonic, rules, strangers, asked, silences
            )

        def swept(found: Recovered) -> None:
            if found.crashed or found.settled or found.bereaved:
                opened.foreign_change()

        recovered = await opened.commit.submit(Operation(sweep, deliver=swept))
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

    async def arguments(self, id: bytes, largest: int = ANY_SIZE) -> bytes | None:
        return await self._read(lambda c: verbs.arguments(c, id, largest))

    async def find(self, wanted: Filter, *, after: int, limit: int) -> list[TaskRow]:
        return await self._read(lambda c: verbs.find(c, wanted, after, limit))

    async def counts(self, queue: str | None = None) -> Mapping[State, int]:
        return await self._read(lambda connection: verbs.counts(connection, queue))

    async def queues(self) -> list[str]:
        return await self._read(verbs.queues)

    async def prune(
        self, wanted: Filter, *, ended_before: float, limit: int, after: int = 0
    ) -> Pruned:
        looked_at = await self._read(lambda c: verbs.ends(c, wanted, after))
        ends, last = prunable(looked_at, ended_before, limit, after)
        # Found on the reader, so that the lock is held for the deletion alone.
        deleted = await self._write(lambda c: verbs.prune(c, ends)) if ends else 0
        return Pruned(deleted, last)

    async def open_group(self, new: NewGroup) -> Group:
        def enter(connection: Connection) -> Group:
            owner, now = new.owner, self._clock.time()
            if isinstance(owner, WorkerRecord):
                warn_if_shared(connection)
                owner = recovery.hire(connection, owner, now, self._clock.monotonic())
            return groups.open_group(connection, new._replace(owner=owner), now)

        opened = await self._ready()
        group = await opened.commit.submit(Operation(enter))
        assert group is not None
        return group

    async def insert_children(self, group: Group, children: Sequence[NewChild]) -> list[bytes]:
        if not children:
            return []
        opened = await self._ready()
        now = self._clock.time()

        def stored(_: object) -> None:
            opened.new_work([child.task for child in children])
            opened.ended.notify()  # those that were stored before may have ended

        ids = await opened.commit.submit(
            Operation(
                lambda connection: groups.insert_children(connection, group, children, now),
                rows=len(children),
                size=sum(len(child.task.arguments) for child in children),
                deliver=stored,
            )
        )
        assert ids is not None
        return ids

    async def ended_children(self, group: Group, after: int, largest: int = 0) -> list[ChildEnd]:
        while True:
            opened = await self._ready()  # each time: it may have been closed
            with opened.interest():
                token = opened.ended.token()
                ends = await opened.look(lambda c: groups.ended_children(c, group, after, largest))
                if ends is None or ends:
                    return ends or []
                await opened.ended.passed(token)

    async def cancel_group(self, group: Group, *, at_once: bool = False) -> None:
        now = self._clock.time()
        await self._write(lambda c: groups.cancel_group(c, group, now, at_once=at_once))

    async def close_group(self, group: Group, *, dismiss: bool) -> bool:
        now = self._clock.time()
        return await self._write(lambda c: groups.close_group(c, group, now, dismiss=dismiss))

    async def tree(self, id: bytes, most: int) -> list[tuple[int | None, TaskRow]]:
        return await self._read(lambda c: groups.tree(c, id, most))

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


def _checked(path: object) -> str:
    try:
        text = os.fspath(path)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownVariableType]
        if isinstance(text, str) and text and b"\0" not in os.fsencode(text):
            return text
    except (TypeError, UnicodeEncodeError):
        pass
    raise InvalidOption(f"path must name a file or be ':memory:': {shown(path)}")

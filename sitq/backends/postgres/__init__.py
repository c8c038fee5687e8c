"""The store for many machines: a schema of a PostgreSQL database."""

from __future__ import annotations

import os
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from sitq.backends.base import ANY_SIZE, Filter, Heart, Pruned, Recovered, Sweep, Wanted
from sitq.backends.commit import Operation
from sitq.backends.lifetime import Lifetime
from sitq.backends.postgres import groups, recovery, verbs
from sitq.backends.postgres.connect import Server, check_schema
from sitq.backends.postgres.driver import Session
from sitq.backends.postgres.inserting import Insert
from sitq.backends.postgres.memory import Memory
from sitq.backends.postgres.opened import Opened, Repeatable, ServerHeart
from sitq.backends.postgres.recovery import Hire, Recovery, Times
from sitq.backends.postgres.settling import Settle, Settled
from sitq.backends.postgres.verbs import Reserve, Reserved
from sitq.backends.postgres.within import insert_here, insert_within
from sitq.backends.pruning import prunable
from sitq.clock import Clock, to_microsecond
from sitq.errors import NotOpen, StoreUnavailable
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
from sitq.options import check_seconds, check_whole

__all__ = ["PostgresBackend"]

T = TypeVar("T")


class PostgresBackend(Lifetime[Opened]):
    """Stores tasks in a schema of a PostgreSQL database, for workers on any number of machines.

    It opens itself at its first use, and stays open then until the event loop ends or `close` is
    called. ``async with backend`` opens and closes it; so do workers and queues that are entered,
    and the last one to leave closes it. Every time is the server's.

    Args:
        url: of the database, ``"postgresql://user:password@host:port/name"``, with all that libpq
            takes.
        schema: of the tables, which are made if they are missing.
        pool_size: how many connections it uses at most, 2 or more. There is one more to listen, and
            one for the lease of each worker.
        listen: whether others are told of changes, and listened to. ``False`` for a pooler that
            gives each transaction another session: then who waits looks every 0.1 seconds, a worker
            every ``poll_interval``.
        answer_limit: seconds without an answer of the server after which a connection is given up.
        outage_limit: seconds for which a server that cannot be reached is tried again before
            `sitq.errors.StoreUnavailable` is raised.
        clock: the source of time, for tests; default: the server's clock.

    Raises:
        InvalidOption: an option is not one of these.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = "sitq",
        pool_size: int = 6,
        listen: bool = True,
        answer_limit: float = 30.0,
        outage_limit: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        size = check_whole("pool_size", pool_size, 2, 1_000)
        limit = check_seconds("answer_limit", answer_limit, 1.0)
        outage = check_seconds("outage_limit", outage_limit)
        server = Server(url, check_schema(schema), limit, None if listen else POLL)
        super().__init__(server.place, lambda loop: Opened.create(server, loop, size, outage))
        self._server = server
        self._own_clock = clock
        self._clock: Clock = clock or _ServerClock(self)
        # So long a statement can be under way, and go on when nobody waits for it any more.
        self._memory: defaultdict[int, Memory] = defaultdict(lambda: Memory(3 * limit))
        """By worker."""

    @property
    def clock(self) -> Clock:
        """The clock of the server, as far as this machine can tell; exact to a few milliseconds."""
        return self._clock

    @property
    def place(self) -> str:
        """Names the store: equal for two backends that lead to the same tasks."""
        opened = self._opened
        return f"postgresql:{opened.store}" if opened is not None else self._server.place

    async def now(self) -> float:
        opened = await self._ready()
        if self._own_clock is None:
            await opened.time_is_right()
        return self._clock.time()

    async def insert(self, tasks: Sequence[NewTask]) -> list[bytes]:
        if not tasks:
            return []
        opened = await self._ready()
        insert = Insert(opened.sql, tasks, self._now())
        ids = await (opened.inserts if insert.is_one() else opened.keyed).submit(
            Operation(
                insert,
                rows=len(tasks),
                size=sum(len(task.arguments) for task in tasks),
                deliver=lambda _: opened.work.notify(),
            )
        )
        assert ids is not None
        return ids

    async def insert_within(self, connection: object, tasks: Sequence[NewTask]) -> list[bytes]:
        opened = await self._ready()
        if not tasks:
            return []
        return await insert_within(
            self._server, opened.sql, opened.store, connection, tasks, self._now()
        )

    def insert_here(self, connection: object, tasks: Sequence[NewTask]) -> list[bytes]:
        opened = self._opened
        if opened is None or opened.pid != os.getpid():
            raise NotOpen(f"{self!r} is not open: use or enter the queue before")
        if not tasks:
            return []
        now = self._now()
        return insert_here(self._server, opened.sql, opened.store, connection, tasks, now)

    async def hire(self, record: WorkerRecord) -> int:
        hire = Hire(record, self._times())
        return await self._write(lambda s, o: hire(s, o.sql))

    async def dismiss(self, worker: int) -> None:
        self._memory.pop(worker, None)
        await self._write(lambda s, o: s.rows(o.sql["dismiss"], {"worker": worker}))

    async def workers(self) -> list[WorkerRow]:
        return await self._read(lambda s, o: recovery.workers(s, o.sql, self._times()))

    def heart(self, worker: int) -> Heart | None:
        return ServerHeart(self._server, worker, lambda: self._times().monotonic)

    async def reserve(
        self, worker: int, wanted: Wanted, deliver: Callable[[list[Reservation]], None]
    ) -> float | None:
        opened = await self._ready()
        memory = self._memory[worker]
        wishes = memory.wishes
        tries = wishes.new()

        def hand_out(found: Reserved) -> None:
            wishes.answered(tries, all_found=found.all_found)
            deliver(found.tasks)

        # A clock of one's own may stand still: then everything has its exact place.
        floors = memory.floors if self._own_clock is None else None
        token = opened.work.token()
        wish = Reserve(opened.sql, worker, wanted, tries, floors, token, self._now())
        tries.operation = Operation(wish, rows=wanted.limit, deliver=hand_out)
        found = await opened.wishes.submit(tries.operation)
        return None if found is None else found.due

    async def settle(
        self,
        worker: int,
        changes: Sequence[Change],
        deliver: Callable[[set[int]], None] | None = None,
    ) -> set[int]:
        if not changes:
            return set()
        opened = await self._ready()

        def settled_now(settled: Settled) -> None:
            opened.settled(changes)
            if not settled.is_all:
                opened.changed()
            if deliver is not None:
                deliver(settled.seqs)

        memory = self._memory[worker]
        again = memory.is_doubtful
        operation = Operation(
            Settle(opened.sql, worker, changes, self._now(), again),
            rows=len(changes),
            size=sum(len(change.value or change.error or b"") for change in changes),
            deliver=settled_now,
        )
        try:
            settled = await opened.ends.submit(operation)
        except StoreUnavailable:
            memory.is_doubtful = True
            raise
        if again:
            memory.is_doubtful = False
        return settled.seqs if settled else set()

    async def progress(self, worker: int, notes: Sequence[Note]) -> None:
        if notes:
            await self._write(lambda s, o: verbs.progress(s, o.sql, worker, notes))

    async def cancelled(self, worker: int, children: Sequence[int] = ()) -> set[int]:
        return await self._read(lambda s, o: verbs.cancelled(s, o.sql, worker, children))

    async def recover(self, worker: int, rules: Sweep) -> Recovered:
        opened = await self._ready()
        times = self._times()
        asked = time.monotonic() if times.monotonic is None else times.monotonic
        sweep = Recovery(
            opened.sql,
            self._server.schema,
            worker,
            rules,
            self._times,
            asked,
            self._memory[worker].silences,
        )

        def swept(found: Recovered) -> None:
            if found.crashed or found.settled or found.bereaved:
                opened.changed()

        recovered = await opened.commit.submit(Operation(sweep, deliver=swept))
        assert recovered is not None
        await opened.driver.run(opened.keep_time)
        return recovered

    async def cancel(self, id: bytes) -> State | None:
        return await self._change(lambda s, o: verbs.cancel(s, o.sql, id, self._now()))

    async def revive(self, id: bytes) -> State | None:
        return await self._change(lambda s, o: verbs.revive(s, o.sql, id, self._now()))

    async def get(self, id: bytes, largest: int = ANY_SIZE) -> TaskRow | None:
        opened = await self._ready()
        return await opened.look(lambda s: verbs.get(s, opened.sql, id, largest))

    async def arguments(self, id: bytes, largest: int = ANY_SIZE) -> bytes | None:
        return await self._read(lambda s, o: verbs.arguments(s, o.sql, id, largest))

    async def find(self, wanted: Filter, *, after: int, limit: int) -> list[TaskRow]:
        return await self._read(lambda s, o: verbs.find(s, o.sql, wanted, after, limit))

    async def counts(self, queue: str | None = None) -> Mapping[State, int]:
        return await self._read(lambda s, o: verbs.counts(s, o.sql, queue))

    async def queues(self) -> list[str]:
        return await self._read(lambda s, o: verbs.queues(s, o.sql))

    async def prune(
        self, wanted: Filter, *, ended_before: float, limit: int, after: int = 0
    ) -> Pruned:
        looked_at = await self._read(lambda s, o: verbs.ends(s, o.sql, wanted, after))
        ends, last = prunable(looked_at, ended_before, limit, after)
        deleted = await self._change(lambda s, o: verbs.prune(s, o.sql, ends)) if ends else 0
        return Pruned(deleted, last)

    async def open_group(self, new: NewGroup) -> Group:
        owner = new.owner
        hire = Hire(owner, self._times()) if isinstance(owner, WorkerRecord) else None

        def enter(session: Session, opened: Opened) -> Group:
            owner = new.owner if hire is None else hire(session, opened.sql)
            return groups.open_group(session, opened.sql, new._replace(owner=owner), self._now())

        return await self._write(enter)

    async def insert_children(self, group: Group, children: Sequence[NewChild]) -> list[bytes]:
        if not children:
            return []
        opened = await self._ready()

        def stored(_: object) -> None:
            opened.new_work()
            opened.groups.changed()  # those that were stored before may have ended

        insert = Repeatable(
            lambda s: groups.insert_children(s, opened.sql, group, children, self._now())
        )
        ids = await opened.children.submit(
            Operation(
                insert,
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
            with opened.interest(), opened.groups.waiting((group.id, after)) as news:
                ends = await opened.look(
                    lambda s, sql=opened.sql: groups.ended_children(s, sql, group, after, largest)
                )
                if ends is None or ends:
                    return ends or []
                await news.wait()

    async def cancel_group(self, group: Group, *, at_once: bool = False) -> None:
        await self._change(
            lambda s, o: groups.cancel_group(s, o.sql, group, self._now(), at_once=at_once)
        )

    async def close_group(self, group: Group, *, dismiss: bool) -> bool:
        return await self._change(
            lambda s, o: groups.close_group(s, o.sql, group, self._now(), dismiss=dismiss)
        )

    async def tree(self, id: bytes, most: int) -> list[tuple[int | None, TaskRow]]:
        return await self._read(lambda s, o: verbs.tree(s, o.sql, id, most))

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

    def _now(self) -> float | None:
        return None if self._own_clock is None else self._own_clock.time()

    def _times(self) -> Times:
        clock = self._own_clock
        return Times() if clock is None else Times(clock.time(), clock.monotonic())

    def _server_time(self) -> float:
        """What the clock of the server says now; that of this machine while it is not open."""
        opened = self._opened
        now = time.time() if opened is None else time.monotonic() + opened.offset
        return to_microsecond(now)

    async def _read(self, look: Callable[[Session, Opened], T]) -> T:
        opened = await self._ready()
        return await opened.driver.run(lambda session: look(session, opened))

    async def _write(self, work: Callable[[Session, Opened], T]) -> T:
        """A write that nobody needs to hear of, and that does no harm if it is done twice."""
        opened = await self._ready()
        operation = Operation(Repeatable(lambda session: work(session, opened)))
        return await opened.commit.submit(operation)  # pyright: ignore[reportReturnType]

    async def _change(self, work: Callable[[Session, Opened], T]) -> T:
        """A rare write: everybody is told, since it may concern anybody."""
        opened = await self._ready()

        def do(session: Session) -> T:
            return work(session, opened)

        operation = Operation(do, deliver=lambda _: opened.changed())
        return await opened.commit.submit(operation)  # pyright: ignore[reportReturnType]


POLL = 0.1
"""Seconds between two looks of who waits, where nothing can be listened to."""


class _ServerClock(Clock):
    """The clock of the server, read from that of this machine, which never jumps."""

    def __init__(self, backend: PostgresBackend) -> None:
        self._backend = weakref.ref(backend)  # or one that is dropped would wait for a collection

    def time(self) -> float:
        backend = self._backend()
        return time.time() if backend is None else backend._server_time()  # pyright: ignore[reportPrivateUsage]

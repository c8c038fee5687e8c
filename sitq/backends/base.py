"""The seam between sitq and a store: a dozen verbs over many tasks at once, decided elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import anyio

from sitq.clock import Clock
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

__all__ = [
    "ANY_SIZE",
    "Backend",
    "Changes",
    "Filter",
    "Heart",
    "Pruned",
    "Recovered",
    "Sweep",
    "Wanted",
]

ANY_SIZE = 2**31
"""More bytes than any store takes for one value."""


class Wanted(NamedTuple):
    """What a worker asks for when it reserves."""

    limit: int
    queues: tuple[str, ...] | None
    """None takes every queue."""
    skip: tuple[str, ...] = ()
    """Names of functions that this worker does not know."""
    suspect: bool = True
    """Whether one task with crashes may be among them."""
    largest: int = ANY_SIZE
    """The most bytes of arguments that the worker can read; larger ones are left out."""


class Sweep(NamedTuple):
    """What a worker lets `Backend.recover` do."""

    crash_limit: int
    """A task under which so many workers died fails."""
    unknown_after: float
    """Seconds after which a task fails that no worker knows."""
    known: tuple[str, ...] = ()
    """Names of functions that the worker knows: tasks of them are not unknown."""
    unknown: tuple[str, ...] = ()
    """Names that it met and does not know: for tasks of them the time begins to run."""
    queues: tuple[str, ...] | None = None
    """The queues that it serves; None serves all. ``known`` and ``unknown`` are about these."""
    stuck: int = 0
    """How many of its runs do not end although they were told to: for its row."""


class Recovered(NamedTuple):
    """What a recovery found."""

    lease_held: bool
    """Whether the worker that asked still has its own lease."""
    crashed: list[Change]
    """Tasks taken from dead workers."""
    settled: list[Change]
    """Tasks that can never run: past their deadline, unknown for too long, or damaged."""
    bereaved: bool = False
    """Whether a dead program had open groups: their tasks are cancelled."""


class Filter(NamedTuple):
    """Which tasks `Backend.find` and `Backend.prune` mean; None means any."""

    state: State | None = None
    queue: str | None = None
    name: str | None = None
    key: str | None = None


class Pruned(NamedTuple):
    """What became of one call of `Backend.prune`."""

    deleted: int
    last: int | None
    """Where to go on, as ``after`` of the next call; None when all was looked at."""


class Heart(Protocol):
    """Renews one worker's lease, from a thread of its own."""

    def beat(self, lag: float) -> bool:
        """Renew the lease, and tell of the lag of the event loop. False if it was taken."""
        ...

    def close(self) -> None:
        """Give up the connection."""
        ...


class Changes:
    """Counts changes, so that none is lost between looking and going to wait.

    Take a `token`, look at the store, and if there was nothing wait until the count has passed the
    token.
    """

    def __init__(self) -> None:
        self._count = 0
        self._event: anyio.Event | None = None

    def token(self) -> int:
        """Where the count stands now."""
        return self._count

    def notify(self) -> None:
        """Something changed. To be called on the event loop."""
        self._count += 1
        event, self._event = self._event, None
        if event is not None:
            event.set()

    async def passed(self, token: int) -> None:
        """Wait until the count is past ``token``."""
        while self._count == token:
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()


class Backend(Protocol):
    """A store of tasks. Every verb is one transaction: all of it happens, or none.

    Every wall-clock time that goes in or comes out is the nearest double to a whole number of
    microseconds, see `sitq.clock.to_microsecond`, and comes back as it went in.

    Errors of every verb: `sitq.errors.StoreUnavailable` when the same call may succeed later,
    `sitq.errors.StoreUnusable` when somebody must act, `sitq.errors.NotOpen` when the backend was
    closed or is in use in another event loop or process.
    """

    @property
    def clock(self) -> Clock:
        """The store's clock, for who cannot wait: see `now`."""
        ...

    @property
    def place(self) -> str:
        """Names the store: equal for two backends that lead to the same tasks."""
        ...

    async def open(self) -> None:
        """Open the store; counted, so that each `open` needs its `close`."""
        ...

    async def close(self) -> None:
        """Close the store when every `open` has its `close`."""
        ...

    async def __aenter__(self) -> Backend: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def now(self) -> float:
        """The store's wall clock, in seconds since 1970-01-01 UTC.

        Opens the store where its clock is elsewhere.
        """
        ...

    async def insert(self, tasks: Sequence[NewTask]) -> list[bytes]:
        """Store all of these tasks or none.

        Returns:
            for each the id of the task that stands for it: its own, or that of the live task which
            holds its key already.
        """
        ...

    async def insert_within(self, connection: object, tasks: Sequence[NewTask]) -> list[bytes]:
        """Store all of these tasks or none, in the open transaction of a caller's connection.

        Nobody is told of them before they are committed. What the transaction did before stays as
        it is when this fails.

        Returns:
            for each the id of the task that stands for it, as the transaction sees it.

        Raises:
            InvalidOption: this store cannot write through such a connection, or it leads to
                another database.
            UsageError: no transaction is open on it, or it is closed.
            NotOpen: the store is not open: to open it could wait for that very transaction.
        """
        ...

    def insert_here(self, connection: object, tasks: Sequence[NewTask]) -> list[bytes]:
        """As `insert_within`, on the thread that calls, whose connection it is: without a loop.

        Raises:
            NotOpen: something about the store is not known yet: `now` is to be asked before. Or its
                tables are to be made first, which could wait for that very transaction.
        """
        ...

    async def hire(self, record: WorkerRecord) -> int:
        """Enter a worker, whose lease begins now. Returns its id, unique in this store for ever."""
        ...

    async def dismiss(self, worker: int) -> None:
        """End a worker's lease, unless it holds tasks: those would be without an owner."""
        ...

    async def workers(self) -> list[WorkerRow]:
        """The workers that have a lease, in the order of their ids."""
        ...

    def heart(self, worker: int) -> Heart | None:
        """What renews the worker's lease from a thread, None where `recover` renews it."""
        ...

    async def reserve(
        self, worker: int, wanted: Wanted, deliver: Callable[[list[Reservation]], None]
    ) -> float | None:
        """Give the worker pending tasks whose time has come; none if it has lost its lease.

        Among those that it can have they come by priority, then by due time, then in the order of
        enqueueing, and at most one of them with crashes. They go to ``deliver``, called on the
        event loop also when the caller was cancelled meanwhile, so that no reservation is ever
        without an owner.

        Returns:
            when the next task is due that has to wait, in seconds of the store's clock, or None.
        """
        ...

    async def settle(
        self,
        worker: int,
        changes: Sequence[Change],
        deliver: Callable[[set[int]], None] | None = None,
    ) -> set[int]:
        """Bring the ends of runs home. Returns the ``seq`` of those that were changed.

        The others are no longer the worker's, or are to go back although somebody asked to cancel
        them: see `cancelled`. A task that goes back without an error keeps the one it has. What is
        returned goes to ``deliver`` too, called on the event loop also when the caller was
        cancelled meanwhile.
        """
        ...

    async def progress(self, worker: int, notes: Sequence[Note]) -> None:
        """Keep what runs of the worker have told, one note of each, in place of what their tasks
        have told before.

        What comes from a run that is over changes nothing. Nobody is told of it.
        """
        ...

    async def cancelled(self, worker: int, children: Sequence[int] = ()) -> set[int]:
        """The ``seq`` of the tasks of this worker that somebody asked to cancel.

        And of those ``children`` that it runs no longer, as they were cancelled with their parent.
        """
        ...

    async def recover(self, worker: int, rules: Sweep) -> Recovered:
        """Renew the worker's lease, take back what dead workers hold, fail what can never run.

        A worker that is silent for two thirds of its lease becomes a suspect; if it is silent for
        another third it is dead for the next recovery. To beat clears the suspicion.
        It fails a bounded number at a time: to be repeated while it finds some.
        """
        ...

    async def cancel(self, id: bytes) -> State | None:
        """Cancel a pending task, ask the worker of a running one. Returns the state it was in."""
        ...

    async def revive(self, id: bytes) -> State | None:
        """Make a failed or cancelled task pending again. Returns the state it was in.

        Raises:
            KeyTaken: a live task holds its key.
        """
        ...

    async def get(self, id: bytes, largest: int = ANY_SIZE) -> TaskRow | None:
        """One task, or None if there is no such task. Its value only up to ``largest`` bytes."""
        ...

    async def arguments(self, id: bytes, largest: int = ANY_SIZE) -> bytes | None:
        """The packed arguments of a task; None if there is no such task or they are larger."""
        ...

    async def find(self, wanted: Filter, *, after: int, limit: int) -> list[TaskRow]:
        """Tasks in the order of enqueueing, without their values.

        They begin with the first whose ``seq`` is above ``after``.
        """
        ...

    async def counts(self, queue: str | None = None) -> Mapping[State, int]:
        """How many tasks are in each state, in all or in one queue."""
        ...

    async def queues(self) -> list[str]:
        """The queues that have pending or running tasks, in the order of their names."""
        ...

    async def prune(
        self, wanted: Filter, *, ended_before: float, limit: int, after: int = 0
    ) -> Pruned:
        """Delete up to ``limit`` tasks that ended at ``ended_before`` or earlier, oldest first.

        It looks at a bounded number of tasks, behind those that another call has looked at
        (``after``): to be repeated until all was looked at.
        """
        ...

    async def open_group(self, new: NewGroup) -> Group:
        """Open a group of tasks, or again that which an earlier run of its parent opened.

        Where the owner is a `WorkerRecord`, a lease is made for the program.

        Raises:
            LeaseLost: the task is not in this run, or the program has no lease.
        """
        ...

    async def insert_children(self, group: Group, children: Sequence[NewChild]) -> list[bytes]:
        """Store all of these children or none, but those that an earlier run has stored.

        They are born cancelled where their group or its parent is to end.

        Returns:
            for each the id of the task that stands for it.

        Raises:
            LeaseLost: the group is no longer the caller's.
            ReplayMismatch: an earlier run enqueued something else in the place of one.
            KeyTaken: a task that is not of the group holds the key of one.
        """
        ...

    async def ended_children(self, group: Group, after: int, largest: int = 0) -> list[ChildEnd]:
        """Wait until children have ended. Returns some, in the order of their ends; none when all
        have ended whose number is above ``after``.

        Of each value up to ``largest`` bytes are read.
        """
        ...

    async def cancel_group(self, group: Group, *, at_once: bool = False) -> None:
        """Cancel the children that wait, ask those that run to end; or end these as well.

        Nothing, if the group is no longer the caller's.
        """
        ...

    async def close_group(self, group: Group, *, dismiss: bool) -> bool:
        """Forget a group of a program, and its lease. False if it was forgotten already."""
        ...

    async def tree(self, id: bytes, most: int) -> list[tuple[int | None, TaskRow]]:
        """A task and those below it, each with the ``seq`` of its parent. Parents come first."""
        ...

    async def ended(self, id: bytes, largest: int = ANY_SIZE) -> TaskRow | None:
        """Wait until a task has ended. None when there is no such task (any more).

        Its value is read only up to ``largest`` bytes.
        """
        ...

    def token(self) -> int:
        """Where the count of changes stands that may bring work or a cancellation."""
        ...

    async def changed(self, token: int) -> None:
        """Wait for such a change, by this process or another, since ``token`` was taken."""
        ...

"""Runs all that is stored to its end, without waiting for the time that it takes."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Collection, Iterable
from typing import NamedTuple, cast
from uuid import UUID

import anyio

from sitq.backends.base import Backend, Filter, Sweep
from sitq.context import running_task
from sitq.errors import NotRegistered, UsageError
from sitq.lifecycle import TERMINAL
from sitq.model import Result, State, TaskRow
from sitq.naming import shown
from sitq.options import LONGEST, check_timeout, check_whole
from sitq.queue import TaskQueue
from sitq.registry import Registry
from sitq.testing.clock import Clock
from sitq.testing.watched import Watched
from sitq.worker import Worker
from sitq.worker.lifespan import LifespanFunction
from sitq.worker.run import Run
from sitq.worker.shift import Shift

__all__ = ["run_pending"]

PAGE = 10_000
POLL = 0.01
"""Seconds between two looks while runs go on, or only wait."""
ROUNDS = 5
SLOWNESS = 10
"""So many looks must find the same while runs wait, and for so many times as long as one takes."""
CRASH_LIMIT = 3
MOST_NAMED = 5


async def run_pending(
    queue: TaskQueue,
    *,
    registry: Registry | None = None,
    limit: int = 10_000,
    timeout: float = 60.0,
    max_concurrency: int = 1,
    lifespan: LifespanFunction | None = None,
) -> list[Result]:
    """Run everything that is stored to its end, with retries, delays, and what tasks enqueue.

    A worker runs what is due. When nothing runs any more, the clock of the store travels to the
    next moment at which something happens, and so on until no task is pending or running. That is
    the wall clock alone: by the other one leases run, and no worker is to be taken for dead.

    Another worker of the same store has its share of the tasks; what it runs is waited for.

    Args:
        queue: of the tasks. Its backend needs a `sitq.testing.Clock` if tasks have to wait.
        registry: the task functions. Default: those of ``@task``.
        limit: how many runs are begun at most, retries counted.
        timeout: real seconds that it may take; `math.inf` for no limit. Then what runs is cancelled
            and goes back; a sync function is waited for.
        max_concurrency: how many tasks run at a time. One after the other they run in the same
            order each time; those that need each other while they run need more.
        lifespan: opens what the tasks share, as that of a `sitq.Worker`.

    Returns:
        how the tasks ended that ended meanwhile, in the order of their ends. Of those that ended at
        one moment of the clock, such as tasks that were cancelled with their parent, those that did
        not run come last.

    Raises:
        NotRegistered: there is a task of a function that is not in the registry.
        UsageError: tasks have to wait, and the clock is none that can be moved; or ``limit`` runs
            were not enough.
        TimeoutError: it has taken ``timeout`` seconds; says what runs and what waits.
    """
    if not isinstance(queue, TaskQueue):
        raise UsageError(f"run_pending takes a TaskQueue on the store: {shown(queue)}")
    if running_task.get() is not None:
        raise UsageError("a task cannot run all tasks to their end: it is one of them")
    seconds = check_timeout(timeout)
    most = check_whole("limit", limit, 1, 10**9)
    watched = Watched(queue._backend, most)  # pyright: ignore[reportPrivateUsage]
    worker = Worker(
        cast("Backend", watched),
        registry=registry,
        serializer=queue._serializer,  # pyright: ignore[reportPrivateUsage]
        max_concurrency=max_concurrency,
        poll_interval=POLL,
        grace=0.0,
        crash_limit=CRASH_LIMIT,
        retention=None,
        unknown_after=LONGEST,
        lifespan=lifespan,
    )
    return await _Drain(queue, watched, worker, most)(seconds)


class _Look(NamedTuple):
    """What there is when nothing runs here but what waits for other tasks."""

    left: int
    """How many runs may be begun yet."""
    held: list[Run]
    """Those that wait."""
    pending: int
    running: int
    due: float | None
    """When the next task is due."""


class _Calm:
    """For how long all looks have found the same.

    A run that waits may be about to hear that what it waits for has ended: that takes some looks of
    its own. How long those take here and now is seen by how long ours do.
    """

    def __init__(self) -> None:
        self._look: _Look | None = None
        self._since = 0.0
        self._rounds = 0
        self._slowest = 0.0

    def saw(self, look: _Look | None, began: float) -> None:
        """What a look has found that began at this moment."""
        if look != self._look:
            self._look, self._since, self._rounds, self._slowest = look, began, 0, 0.0
        self._rounds += 1
        self._slowest = max(self._slowest, time.monotonic() - began)

    def is_long(self) -> bool:
        """Whether nothing is to be expected any more."""
        took = time.monotonic() - self._since
        return self._rounds >= ROUNDS and took >= SLOWNESS * self._slowest


class _Drain:
    """Everything that is stored, on its way to its end."""

    def __init__(self, queue: TaskQueue, watched: Watched, worker: Worker, limit: int) -> None:
        self._queue = queue
        self._backend = watched.backend
        self._watched = watched
        self._worker = worker
        self._limit = limit
        self._seen = 0
        """The ``seq`` of the newest task that was looked at."""
        self._deadlines: dict[bytes, float] = {}
        """Of tasks that may be pending still."""

    async def __call__(self, timeout: float) -> list[Result]:
        before = {row.seq for row in await self._rows() if row.state in TERMINAL}
        await self._look_at_new()
        async with self._worker:
            with anyio.move_on_after(timeout) as limit:
                await self._run_all()
            if limit.cancelled_caught:
                told = await self._told() or "all has ended just now"
                raise TimeoutError(f"run_pending is not done after {timeout:g} s; {told}")
        return await self._results(before)

    async def _run_all(self) -> None:
        calm = _Calm()
        while True:
            token = self._watched.news.token()
            began = time.monotonic()
            look = await self._look()
            calm.saw(look, began)
            if look is not None:
                if not look.pending and not look.running:
                    return
                if not look.held or calm.is_long():
                    await self._go_on(look)
            await self._watched.news.passed(token)

    async def _look(self) -> _Look | None:
        """None while there is anything that runs here, or is about to."""
        nothing, left = self._watched.nothing, self._watched.left
        if not self._is_quiet():
            return None
        if nothing is None:
            self._wake()
            return None
        await self._look_at_new()
        if await self._is_to_cancel():
            return None
        counts = await self._backend.counts()
        look = _Look(
            left, list(self._held()), counts[State.PENDING], counts[State.RUNNING], nothing.due
        )
        is_unchanged = left == self._watched.left and nothing.token == self._backend.token()
        return look if is_unchanged and self._is_quiet() else None

    async def _look_at_new(self) -> None:
        """See what was enqueued since the last look."""
        rows = await self._rows(after=self._seen)
        live = [row for row in rows if row.state not in TERMINAL]
        pending = [row for row in live if row.state is State.PENDING]
        unknown = [row for row in pending if row.name not in self._worker.registry]
        if unknown:
            raise NotRegistered(
                f"there are tasks whose function is not registered: {_names(unknown)}; import its "
                "module, or give the registry that has it: run_pending(queue, registry=...)"
            )
        self._deadlines |= {row.id: row.deadline for row in live if row.deadline is not None}
        self._seen = rows[-1].seq if rows else self._seen

    @property
    def _shift(self) -> Shift | None:
        return self._worker._shift  # pyright: ignore[reportPrivateUsage]

    def _held(self) -> Collection[Run]:
        """What the worker holds: runs, and what it has not brought home yet."""
        return () if self._shift is None else self._shift.held.values()

    def _is_quiet(self) -> bool:
        """Whether nothing runs here but what waits for other tasks."""
        return all(run.waits and run.outcome is None for run in self._held())

    async def _is_to_cancel(self) -> bool:
        """Whether somebody asked to cancel what waits here."""
        shift = self._shift
        if shift is None or not shift.held:
            return False
        return bool(await self._backend.cancelled(shift.worker, shift.children()))

    async def _go_on(self, look: _Look) -> None:
        """Do what is next, now that nothing runs here."""
        now = await self._backend.now()
        if look.pending and await self._expire(now):
            return
        if look.pending and not look.left:
            raise UsageError(
                f"{self._limit} runs were not enough; {await self._told()}; does a task enqueue "
                "itself, or is it retried, for ever? Otherwise give a larger limit"
            )
        is_due = look.due is not None and look.due <= now
        if is_due or look.running > len(look.held):  # with another worker
            return
        clock = self._backend.clock
        if isinstance(clock, Clock):
            self._travel(clock, look, now)
        elif look.pending:
            raise UsageError(
                f"these tasks have to wait: {_names(await self._rows(State.PENDING))}; give the "
                "backend a clock that can travel to their time: clock=sitq.testing.Clock()"
            )

    async def _expire(self, now: float) -> bool:
        """Fail what is past its deadline, if there is any."""
        if now < min(self._deadlines.values(), default=math.inf):
            return False
        pending = {row.id for row in await self._rows(State.PENDING)}
        self._deadlines = {id: at for id, at in self._deadlines.items() if id in pending}
        shift = self._shift
        if shift is None or now < min(self._deadlines.values(), default=math.inf):
            return False
        await self._backend.recover(shift.worker, Sweep(CRASH_LIMIT, LONGEST))
        return True

    def _travel(self, clock: Clock, look: _Look, now: float) -> None:
        """To the next moment at which a task is due, or its time is up."""
        moments = [now + run.ends_at - time.monotonic() for run in look.held]
        if look.pending:
            moments += self._deadlines.values()
            moments.append(math.inf if look.due is None else look.due)
        moment = min(moments, default=math.inf)
        if moment < math.inf:
            ahead = max(0.0, moment - now)
            clock.jump(ahead)
            for run in look.held:
                if run.limit is not None:
                    run.ends_at -= ahead
                    run.limit.deadline -= ahead
            self._wake()

    def _wake(self) -> None:
        """Have the worker look for work."""
        if self._shift is not None and self._shift.waiting is not None:
            self._shift.waiting.cancel()

    async def _results(self, before: Collection[int]) -> list[Result]:
        order = self._watched.ended
        ended = [
            row
            for row in await self._rows()
            if row.state in TERMINAL and (row.seq in order or row.seq not in before)
        ]
        ended.sort(key=lambda row: (row.ended or 0.0, order.get(row.seq, math.inf), row.seq))
        results = [await self._queue.get_result(UUID(bytes=row.id)) for row in ended]
        return [result for result in results if result is not None]

    async def _told(self) -> str:
        """What runs, and what is pending, in words."""
        running, pending = await self._rows(State.RUNNING), await self._rows(State.PENDING)
        told = ("running", running), ("pending", pending)
        return "; ".join(f"{state}: {_names(rows)}" for state, rows in told if rows)

    async def _rows(self, state: State | None = None, after: int = 0) -> list[TaskRow]:
        """All tasks, or those in a state."""
        rows: list[TaskRow] = []
        page = await self._backend.find(Filter(state), after=after, limit=PAGE)
        while page:
            rows += page
            page = await self._backend.find(Filter(state), after=page[-1].seq, limit=PAGE)
        return rows


def _names(rows: Iterable[TaskRow]) -> str:
    """How many tasks of which functions, in words."""
    numbers = Counter(row.name for row in rows).most_common()
    named = ", ".join(f"{name} ({number})" for name, number in numbers[:MOST_NAMED])
    more = len(numbers) - MOST_NAMED
    return f"{named} and {more} other functions" if more > 0 else named

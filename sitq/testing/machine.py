"""Drives a store at random and compares it, after every step, with a model in plain Python.

The model's oracle is `sitq.lifecycle`: it decides, the store must follow. To check a store of your
own, subclass `QueueMachine`, give `make_backend`, and collect ``YourMachine.TestCase``.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import count

from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sitq import lifecycle
from sitq.backends.base import Backend, Filter, Heart, Recovered, Sweep, Wanted
from sitq.backends.sqlite import SQLiteBackend
from sitq.clock import ManualClock
from sitq.errors import KeyTaken
from sitq.lifecycle import TERMINAL
from sitq.model import (
    Change,
    NewTask,
    Outcome,
    OutcomeKind,
    Reservation,
    State,
    TaskRow,
    WorkerRecord,
)
from sitq.retry import Retry
from sitq.testing.model import Known, Model

__all__ = ["QueueMachine"]

ENDS = (
    OutcomeKind.SUCCEEDED,
    OutcomeKind.FAILED,
    OutcomeKind.TIMED_OUT,
    OutcomeKind.RELEASED,
)
QUEUES = ("default", "mail")
_numbers = st.integers(0, 1_000)


class QueueMachine(RuleBasedStateMachine):
    """Checks a backend against the life of a task.

    Attributes:
        loop: the event loop on which the backend runs, ``"asyncio"`` or ``"trio"``.
        crash_limit: so many workers may die under a task before it fails.
        lease: seconds without a beat after which a worker is taken for dead.
        retry: the policy of every task.
    """

    loop: str = "asyncio"
    crash_limit: int = 2
    lease: float = 15.0
    retry: Retry = Retry(attempts=2, base=1.0, cap=4.0)

    def __init__(self) -> None:
        super().__init__()
        self._clock = ManualClock()
        self._rng = random.Random(0)
        self._ids = count(1)
        self._model = Model()
        self._workers: list[int] = []
        self._hearts: dict[int, Heart] = {}
        self._stale: list[tuple[int, Change]] = []
        self._portals = start_blocking_portal(backend=self.loop)
        self._portal: BlockingPortal = self._portals.__enter__()
        try:
            self._backend = self.make_backend(self._clock)
            self._portal.call(self._backend.open)
        except BaseException:
            self._portals.__exit__(None, None, None)
            raise

    def make_backend(self, clock: ManualClock) -> Backend:
        """The backend to check: new, empty and run by ``clock``."""
        return SQLiteBackend(":memory:", clock=clock)

    def teardown(self) -> None:
        """Close the backend and end its event loop."""
        try:
            for worker in tuple(self._hearts):
                self._stop_beating(worker)
            self._portal.call(self._backend.close)
        finally:
            self._portals.__exit__(None, None, None)

    @rule()
    @precondition(lambda self: len(self._workers) < 3)
    def hire(self) -> None:
        record = WorkerRecord("here", 1, None, 10, self.lease)
        worker = self._portal.call(self._backend.hire, record)
        assert worker not in self._workers
        self._workers.append(worker)
        heart = self._backend.heart(worker)
        if heart is not None:
            self._hearts[worker] = heart

    @rule(
        size=st.integers(1, 4),
        queue=st.sampled_from(QUEUES),
        delay=st.sampled_from((0.0, 0.0, 3.0)),
        priority=st.integers(-1, 1),
        key=st.none() | st.sampled_from("ab"),
        patience=st.none() | st.sampled_from((5.0, 50.0)),
    )
    def insert(
        self,
        size: int,
        queue: str,
        delay: float,
        priority: int,
        key: str | None,
        patience: float | None,
    ) -> None:
        now = self._clock.time()
        deadline = None if patience is None else now + patience
        tasks = [
            NewTask(
                next(self._ids).to_bytes(16, "big"),
                "tests.work",
                queue,
                priority,
                now + delay,
                key,
                None,
                deadline,
                None,
                b"arguments",
                now,
            )
            for _ in range(size)
        ]
        expected: list[bytes] = []
        for task in tasks:
            holder = self._model.holder(task.key)
            if holder is None:
                self._model.tasks[task.id] = Known(
                    int.from_bytes(task.id, "big"), task, task.run_at
                )
            expected.append(task.id if holder is None else holder.new.id)
        assert self._portal.call(self._backend.insert, tasks) == expected

    @rule(which=_numbers, limit=st.integers(1, 4), queues=st.sampled_from((None, ("mail",))))
    @precondition(lambda self: self._workers)
    def reserve(self, which: int, limit: int, queues: tuple[str, ...] | None) -> None:
        worker = self._workers[which % len(self._workers)]
        suspect = not any(task.crashes for task in self._model.held_by(worker))
        expected = self._model.eligible(limit, queues, suspect, self._clock.time())
        got: list[Reservation] = []
        wanted = Wanted(limit, queues, (), suspect)
        due = self._portal.call(self._backend.reserve, worker, wanted, got.extend)
        assert [task.id for task in got] == [task.new.id for task in expected]
        for reservation in got:
            self._reserved(worker, reservation)
        if len(got) < limit:
            assert due == self._model.next_due(queues, self._clock.time())

    @rule(which=_numbers, kind=st.sampled_from(ENDS), saw_cancel=st.booleans())
    @precondition(lambda self: self._model.running())
    def settle(self, which: int, kind: OutcomeKind, saw_cancel: bool) -> None:
        running = self._model.running()
        task = running[which % len(running)]
        assert task.held is not None
        assert task.worker is not None
        outcome = Outcome(kind, value=b"value" if kind is OutcomeKind.SUCCEEDED else None)
        change = lifecycle.settle(
            task.held,
            self.retry,
            outcome,
            self._clock.time(),
            self._rng,
            cancel_requested=task.cancel and saw_cancel,
        )
        assert change is not None
        settled = self._portal.call(self._backend.settle, task.worker, [change])
        if task.cancel and change.state is State.PENDING:
            assert settled == set()
        else:
            assert settled == {change.seq}
            self._apply(task, change)

    @rule(which=_numbers)
    @precondition(lambda self: self._stale)
    def settle_with_an_old_fence(self, which: int) -> None:
        worker, change = self._stale[which % len(self._stale)]
        assert self._portal.call(self._backend.settle, worker, [change]) == set()

    @rule(which=_numbers)
    @precondition(lambda self: self._model.tasks)
    def cancel(self, which: int) -> None:
        task = self._model.some(which)
        assert self._portal.call(self._backend.cancel, task.new.id) == task.state
        if task.state is State.PENDING:
            task.cancel = True
            self._model.move(task, State.CANCELLED)
        elif task.state is State.RUNNING:
            task.cancel = True

    @rule(which=_numbers)
    @precondition(lambda self: self._model.tasks)
    def revive(self, which: int) -> None:
        task = self._model.some(which)
        dead = task.state in (State.FAILED, State.CANCELLED)
        if dead and self._model.holder(task.new.key) is not None:
            try:
                self._portal.call(self._backend.revive, task.new.id)
            except KeyTaken:
                return
            raise AssertionError("revived beside a live task with the same key")
        assert self._portal.call(self._backend.revive, task.new.id) == task.state
        if dead:
            self._model.move(task, State.PENDING)
            task.run_at = self._clock.time()
            task.fence += 1
            task.attempts = task.crashes = 0
            task.cancel = False

    @rule(seconds=st.sampled_from((0.5, 2.0, 5.0)))
    def advance(self, seconds: float) -> None:
        self._clock.advance(seconds)
        self._upkeep()

    @rule(which=_numbers)
    @precondition(lambda self: len(self._workers) > 1)
    def crash(self, which: int) -> None:
        """A worker dies without a word; the others take what it held when its lease is over."""
        dead = self._workers.pop(which % len(self._workers))
        self._stop_beating(dead)
        for seconds in (self.lease, self.lease / 3 + 0.5):
            self._clock.advance(seconds)
            self._upkeep()
        assert not self._model.held_by(dead)

    @rule()
    def recover(self) -> None:
        self._upkeep()

    @rule(limit=st.integers(1, 5))
    def prune(self, limit: int) -> None:
        ended = sorted((t for t in self._model.tasks.values() if not t.live), key=lambda t: t.ended)
        pruned = self._prune(limit)
        assert pruned == min(limit, len(ended))
        for task in ended[:limit]:
            del self._model.tasks[task.new.id]

    @invariant()
    def store_is_as_the_model(self) -> None:
        rows = self._find()
        assert {row.id for row in rows} == set(self._model.tasks), (
            "a task was lost, or came from nowhere"
        )
        for row in rows:
            assert self._model.tasks[row.id].reads_as(row), (self._model.tasks[row.id], row)

    @invariant()
    def counts_are_right(self) -> None:
        states = Counter(task.state for task in self._model.tasks.values())
        assert dict(self._portal.call(self._backend.counts)) == {s: states[s] for s in State}

    @invariant()
    def promises_hold(self) -> None:
        keys = Counter(row.key for row in self._find() if row.key and row.state not in TERMINAL)
        assert all(number == 1 for number in keys.values()), "two live tasks with one key"
        for task in self._model.tasks.values():
            assert task.attempts <= self.retry.attempts
            assert task.crashes <= self.crash_limit
        for worker in self._workers:
            assert sum(task.crashes > 0 for task in self._model.held_by(worker)) <= 1

    def _upkeep(self) -> None:
        """What every living worker does all the time: beat, and take what dead ones hold."""
        for heart in self._hearts.values():
            assert self._portal.call(heart.beat)
        for worker in self._workers:
            self._recover(worker)

    def _recover(self, worker: int) -> None:
        now = self._clock.time()
        found = self._portal.call(self._sweep, worker)
        assert found.lease_held, "a worker that beats lost its lease"
        by_seq = {task.held.seq: task for task in self._model.running() if task.held is not None}
        for change in found.crashed:
            task = by_seq[change.seq]
            assert task.held is not None
            assert task.worker not in self._workers, "a living worker was taken for dead"
            decided = lifecycle.crashed(task.held, self.crash_limit, cancel_requested=task.cancel)
            assert change._replace(error=None) == decided._replace(error=None)
            self._apply(task, change)
        late = {
            task.new.id: task
            for task in self._model.tasks.values()
            if task.state is State.PENDING
            and task.new.deadline is not None
            and task.new.deadline <= now
        }
        assert len(found.settled) == len(late)
        numbers = {row.seq: row.id for row in self._find()}
        for change in found.settled:
            self._apply(late[numbers[change.seq]], change)

    async def _sweep(self, worker: int) -> Recovered:
        return await self._backend.recover(worker, Sweep(self.crash_limit, 3_600.0))

    def _find(self) -> list[TaskRow]:
        async def find() -> list[TaskRow]:
            return await self._backend.find(Filter(), after=0, limit=10_000)

        return self._portal.call(find)

    def _prune(self, limit: int) -> int:
        async def prune() -> int:
            now = self._clock.time()
            pruned = await self._backend.prune(Filter(), ended_before=now, limit=limit)
            return pruned.deleted

        return self._portal.call(prune)

    def _reserved(self, worker: int, reservation: Reservation) -> None:
        task = self._model.tasks[reservation.id]
        assert reservation.fence > task.fence, "the fence did not grow"
        assert reservation.run_at <= self._clock.time(), "a delayed task came early"
        assert reservation.arguments == task.new.arguments
        assert (reservation.attempts, reservation.crashes) == (task.attempts, task.crashes)
        self._model.move(task, State.RUNNING)
        task.fence, task.worker, task.held = reservation.fence, worker, reservation

    def _apply(self, task: Known, change: Change) -> None:
        if task.worker is not None:
            self._stale.append((task.worker, change))
        self._model.move(task, change.state)
        task.run_at, task.attempts, task.crashes = change.run_at, change.attempts, change.crashes
        task.worker = task.held = None

    def _stop_beating(self, worker: int) -> None:
        heart = self._hearts.pop(worker, None)
        if heart is not None:
            self._portal.call(heart.close)

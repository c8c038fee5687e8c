"""What the rules of `QueueMachine` share: a store, a clock, the model, and those who work."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from itertools import count

from hypothesis.stateful import RuleBasedStateMachine

from sitq import lifecycle
from sitq.backends.base import Backend, Filter, Heart, Sweep, Wanted
from sitq.backends.sqlite import SQLiteBackend
from sitq.model import (
    Change,
    Group,
    NewTask,
    Outcome,
    OutcomeKind,
    Reservation,
    State,
    TaskRow,
    WorkerRow,
)
from sitq.retry import Retry
from sitq.testing.clock import Clock
from sitq.testing.door import Door
from sitq.testing.draws import NAMES, Draft
from sitq.testing.model import Model

__all__ = ["Stage"]


class Stage(RuleBasedStateMachine):
    """Sets up a store and its model, and puts each verb to both."""

    loop: str = "asyncio"
    crash_limit: int = 2
    lease: float = 15.0
    unknown_after: float = 60.0
    retry: Retry = Retry(attempts=2, base=1.0, cap=4.0)

    def __init__(self) -> None:
        super().__init__()
        # At a microsecond that no double is equal to: a store is to give back what it was given.
        self.clock: Clock = Clock(1_700_000_000.123457)
        self.model: Model = Model()
        self.workers: list[int] = []
        """Workers that live, as far as they know."""
        self.ever: list[int] = []
        """Every worker that ever was."""
        self.hearts: dict[int, Heart] = {}
        self.past: list[tuple[int, Reservation]] = []
        """Everything that was ever reserved, and by whom."""
        self.drained: int = 0
        """How much of it there was when the store was drained last."""
        self.watched: dict[bytes, Future[TaskRow | None]] = {}
        """Waits for the ends of tasks."""
        self.pruned: list[bytes] = []
        self.opened: list[Group] = []
        """The groups that tasks have opened, as each of their runs has them."""
        self._rng = random.Random(0)
        self._ids = count(1)
        self.door: Door = Door(self.loop)
        try:
            backend, peer = self.make_backend(self.clock), self.make_peer(self.clock)
            self.door.open(backend, *(() if peer is None else (peer,)))
        except BaseException:
            self.door.close()
            raise

    def make_backend(self, clock: Clock) -> Backend:
        """The backend to check: new, empty and run by ``clock``."""
        return SQLiteBackend(":memory:", clock=clock)

    def make_peer(self, clock: Clock) -> Backend | None:
        """Another backend over the same store, as another process would have it, or None.

        Then the verbs go to both in turn, and what happens through one must wake who waits at the
        other.
        """
        return None

    def check_closed(self) -> None:
        """Called at the end of a run, when the store was closed; for checks of your own."""

    def teardown(self) -> None:
        """Close the store and end its event loop."""
        try:
            for future in self.watched.values():
                future.cancel()
            for worker in tuple(self.hearts):
                self.stop_beating(worker)
        finally:
            self.door.close()
        self.check_closed()

    @property
    def now(self) -> float:
        return self.clock.time()

    # What callers do.

    def new_task(self, draft: Draft) -> NewTask:
        return draft.task(next(self._ids).to_bytes(16, "big"), self.now)

    def store(self, batch: Sequence[Draft]) -> None:
        tasks = [self.new_task(draft) for draft in batch]
        expected = self.model.insert(tasks)
        stored = any(task.id in expected for task in tasks)
        ids = self.door.waking(lambda backend: backend.insert(tasks), lambda _: stored)
        assert ids == expected

    def check(self, id: bytes) -> None:
        """Look at one task, with its result, which `Backend.find` does not tell."""
        known = self.model.tasks.get(id)
        row = self.door(lambda backend: backend.get(id))
        assert row == (None if known is None else known.row())

    async def read_all(
        self, backend: Backend
    ) -> tuple[list[TaskRow], Mapping[State, int], list[WorkerRow]]:
        rows = await backend.find(Filter(), after=0, limit=10_000)
        return rows, await backend.counts(), await backend.workers()

    # What workers do.

    def take(self, worker: int, wanted: Wanted) -> list[Reservation]:
        """Reserve, and check what comes."""
        expected = self.model.reserve(worker, wanted, self.now)
        got: list[Reservation] = []
        due = self.door(lambda backend: backend.reserve(worker, wanted, got.extend))
        assert [task.id for task in got] == [task.new.id for task in expected]
        for task, reservation in zip(expected, got, strict=True):
            assert reservation.fence > task.fence, "the fence did not grow"
            task.fence, task.seq = reservation.fence, task.seq or reservation.seq
            assert reservation == task.reservation()
            self.past.append((worker, reservation))
        if len(got) < wanted.limit and worker in self.model.members:
            self._check_due(due, wanted)
        return got

    def _check_due(self, due: float | None, wanted: Wanted) -> None:
        earliest, latest = self.model.next_due(wanted, self.now)
        if due is None:
            assert latest is None, "a worker would not wake for the next task"
        else:
            assert earliest is not None
            assert earliest <= due
            assert latest is None or due <= latest, "a worker would wake too late"

    def decide(self, task: Reservation, outcome: Outcome, *, saw_cancel: bool = False) -> Change:
        change = lifecycle.settle(
            task, self.retry, outcome, self.now, self._rng, cancel_requested=saw_cancel
        )
        assert change is not None
        failed = outcome.kind in (OutcomeKind.FAILED, OutcomeKind.TIMED_OUT)
        assert change.attempts == task.attempts + failed, "only failed runs are attempts"
        return change

    def bring_home(self, worker: int, changes: Sequence[Change]) -> None:
        """Settle, and check which of the changes were made."""
        expected = self.model.settle(worker, changes, self.now)
        again = any(c.seq in expected and c.state is State.PENDING for c in changes)
        told: list[set[int]] = []
        settled = self.door.waking(
            lambda backend: backend.settle(worker, changes, told.append), lambda _: again
        )
        assert [settled] == told == [expected]
        for id, task in self.model.tasks.items():
            if task.seq in settled:
                self.check(id)

    def beat(self, worker: int) -> None:
        """Renew a lease as the store has it done: by its heart, or by a recovery."""
        heart = self.hearts.get(worker)
        if heart is None:
            self.recover(worker)
            return
        monotonic = self.clock.monotonic()
        lag = monotonic / 16
        held = self.model.beat(worker, monotonic, lag)
        assert self.door.plainly(heart.beat, lag) == held
        if not held:
            self.retire(worker)

    def recover(
        self,
        worker: int,
        known: tuple[str, ...] = NAMES,
        queues: tuple[str, ...] | None = None,
    ) -> None:
        """One sweep, and a check of what it found."""
        monotonic = self.clock.monotonic()
        taken = self.model.dead(worker, monotonic)
        # Whether what comes back in a sweep is marked by it already is left to the store.
        unknown = () if taken else tuple(name for name in NAMES if name not in known)
        rules = Sweep(self.crash_limit, self.unknown_after, known, unknown, queues)
        expected = self.model.recover(worker, rules, self.now, monotonic)
        found = self.door.waking(
            lambda backend: backend.recover(worker, rules),
            lambda _: any(change.state is State.PENDING for change in expected.crashed),
        )
        assert found.lease_held == expected.lease_held
        assert sorted(found.crashed) == expected.crashed
        assert sorted(found.settled) == expected.settled
        for change in found.crashed:
            self._check_crash(change)
        if not found.lease_held:
            self.retire(worker)

    def _check_crash(self, change: Change) -> None:
        run = next(run for _, run in self.past if (run.seq, run.fence) == change[:2])
        assert change.attempts == run.attempts, "a crash is not an attempt"
        spared = 1  # if a child of it has come to an end meanwhile
        assert change.crashes in (run.crashes + 1, spared)
        assert change.epoch == run.epoch

    def retire(self, worker: int) -> None:
        """A worker is no more; what it held may still be settled by its ghost, in vain."""
        if worker in self.workers:
            self.workers.remove(worker)
        self.stop_beating(worker)

    def stop_beating(self, worker: int) -> None:
        heart = self.hearts.pop(worker, None)
        if heart is not None:
            self.door.plainly(heart.close)

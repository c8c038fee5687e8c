"""A store in plain Python: the tasks as they must be in it, and what each verb must answer.

It decides nothing of its own: what becomes of a task comes from `sitq.lifecycle`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sitq import lifecycle
from sitq.backends.base import Filter, Recovered, Sweep, Wanted
from sitq.errors import KeyTaken
from sitq.lifecycle import TERMINAL, TRANSITIONS
from sitq.model import Change, NewTask, Reservation, State, TaskRow

__all__ = ["Known", "Member", "Model"]


@dataclass(slots=True)
class Known:
    """A task as it must be in the store. ``seq`` and ``fence`` are the store's own."""

    new: NewTask
    run_at: float
    seq: int = 0
    state: State = State.PENDING
    fence: int = 0
    attempts: int = 0
    crashes: int = 0
    epoch: int = 0
    cancel: bool = False
    worker: int | None = None
    unknown_since: float | None = None
    started: float | None = None
    ended: float | None = None
    place: int = 0
    """When it ended, as a count of the ends."""
    value: bytes | None = None
    error: bytes | None = None

    @property
    def live(self) -> bool:
        return self.state not in TERMINAL

    def row(self) -> TaskRow:
        """As `Backend.get` must read it."""
        new = self.new
        return TaskRow(
            self.seq,
            new.id,
            new.name,
            new.queue,
            self.state,
            new.priority,
            new.key,
            self.attempts,
            self.crashes,
            self.cancel,
            new.enqueued,
            self.run_at,
            new.deadline,
            self.started,
            self.ended,
            self.value,
            self.error,
        )

    def reservation(self) -> Reservation:
        """As the worker that reserved it last must have it."""
        new = self.new
        return Reservation(
            self.seq,
            new.id,
            new.name,
            new.queue,
            new.priority,
            self.fence,
            self.attempts,
            self.crashes,
            self.epoch,
            self.run_at,
            new.timeout,
            new.deadline,
            new.retry,
            new.arguments,
            new.enqueued,
            self.unknown_since,
        )

    def fits(self, wanted: Filter) -> bool:
        mine = (self.state, self.new.queue, self.new.name, self.new.key)
        return all(one in (None, own) for one, own in zip(wanted, mine, strict=True))

    def is_over(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.new.deadline is not None and self.new.deadline <= now


@dataclass(slots=True)
class Member:
    """A worker that has its lease."""

    lease: float
    beat: float
    suspect: float | None = None
    """Since when it is suspected to be dead."""


class Model:
    """All tasks, by id in the order of enqueueing, and all workers that have their lease."""

    def __init__(self) -> None:
        self.tasks: dict[bytes, Known] = {}
        self.members: dict[int, Member] = {}
        self._ends = 0

    def hire(self, worker: int, lease: float, monotonic: float) -> None:
        self.members[worker] = Member(lease, monotonic)

    def insert(self, tasks: Iterable[NewTask]) -> list[bytes]:
        return [self._insert(task) for task in tasks]

    def _insert(self, task: NewTask) -> bytes:
        holder = self.holder(task.key)
        if holder is None:
            self.tasks[task.id] = Known(task, task.run_at)
        return task.id if holder is None else holder.new.id

    def reserve(self, worker: int, wanted: Wanted, now: float) -> list[Known]:
        """The tasks that the worker must get, in their order; they run from now on."""
        if worker not in self.members:
            return []
        chosen = self._eligible(wanted, now)
        for task in chosen:
            self._move(task, State.RUNNING, now)
            task.worker, task.started = worker, now
        return chosen

    def _eligible(self, wanted: Wanted, now: float) -> list[Known]:
        ready = [
            task
            for task in self._waiting(wanted.queues)
            if task.run_at <= now and not task.is_over(now) and task.new.name not in wanted.skip
        ]
        # A stable sort: tasks were gathered in the order of enqueueing.
        ready.sort(key=lambda task: (-task.new.priority, task.run_at))
        suspect = next((task for task in ready if task.crashes and wanted.suspect), None)
        return [task for task in ready if not task.crashes or task is suspect][: wanted.limit]

    def next_due(self, wanted: Wanted, now: float) -> tuple[float | None, float | None]:
        """The earliest and the latest moment that may be told to a worker as the next due one.

        Tasks that it would not get then, unknown or past their deadline, may count or not.
        """
        later = [task for task in self._waiting(wanted.queues) if task.run_at > now]
        fit = [t for t in later if t.new.name not in wanted.skip and not t.is_over(t.run_at)]
        earliest, latest = (min((t.run_at for t in some), default=None) for some in (later, fit))
        return earliest, latest

    def _waiting(self, queues: tuple[str, ...] | None) -> Iterable[Known]:
        for task in self.tasks.values():
            if task.state is State.PENDING and (queues is None or task.new.queue in queues):
                yield task

    def settle(self, worker: int, changes: Sequence[Change], now: float) -> set[int]:
        return {change.seq for change in changes if self._settle(worker, change, now)}

    def _settle(self, worker: int, change: Change, now: float) -> bool:
        task = self._by_seq(change.seq)
        if task is None or task.worker != worker or task.fence != change.fence:
            return False
        if task.cancel and change.state is State.PENDING:
            return False
        self._apply(task, change, now)
        return True

    def cancelled(self, worker: int) -> set[int]:
        return {task.seq for task in self.held_by(worker) if task.cancel}

    def beat(self, worker: int, monotonic: float) -> bool:
        member = self.members.get(worker)
        if member is not None:
            member.beat, member.suspect = monotonic, None
        return member is not None

    def recover(self, worker: int, rules: Sweep, now: float, monotonic: float) -> Recovered:
        held = self.beat(worker, monotonic)
        dead = self.dead(worker, monotonic)
        for member in self.members.values():
            if member.suspect is None and monotonic - member.beat >= member.lease * 2 / 3:
                member.suspect = monotonic
        crashed = [change for other in dead for change in self._take(other, rules, now)]
        self._mark(rules, now)
        expired = self._fail(lifecycle.expired, lambda task: task.is_over(now), now)
        bound = now - rules.unknown_after
        forgotten = self._fail(
            lifecycle.forgotten,
            lambda task: task.unknown_since is not None and task.unknown_since <= bound,
            now,
        )
        return Recovered(held, sorted(crashed), sorted(expired + forgotten))

    def dead(self, worker: int, monotonic: float) -> list[int]:
        """Whom a recovery by this worker takes for dead now."""
        return [
            other
            for other, member in self.members.items()
            if other != worker
            and member.suspect is not None
            and monotonic - member.suspect >= member.lease / 3
        ]

    def _take(self, dead: int, rules: Sweep, now: float) -> list[Change]:
        changes: list[Change] = []
        for task in self.held_by(dead):
            change = lifecycle.crashed(
                task.reservation(), rules.crash_limit, cancel_requested=task.cancel
            )
            self._apply(task, change, now)
            changes.append(change)
        del self.members[dead]
        return changes

    def _mark(self, rules: Sweep, now: float) -> None:
        for task in self._waiting(rules.queues):
            if task.new.name in rules.unknown and task.unknown_since is None:
                task.unknown_since = now
            if task.new.name in rules.known:
                task.unknown_since = None

    def _fail(
        self, decide: Callable[[Reservation], Change], is_due: Callable[[Known], bool], now: float
    ) -> list[Change]:
        due = [task for task in self._waiting(None) if is_due(task)]
        changes = [decide(task.reservation()) for task in due]
        for task, change in zip(due, changes, strict=True):
            self._apply(task, change, now)
        return changes

    def cancel(self, id: bytes, now: float) -> State | None:
        task = self.tasks.get(id)
        if task is None:
            return None
        state = task.state
        task.cancel = task.cancel or task.live
        if state is State.PENDING:
            self._move(task, State.CANCELLED, now)
        return state

    def revive(self, id: bytes, now: float) -> State | None:
        task = self.tasks.get(id)
        if task is None:
            return None
        state = task.state
        if state in (State.FAILED, State.CANCELLED):
            if self.holder(task.new.key) is not None:
                raise KeyTaken
            self._move(task, State.PENDING, now)
            task.run_at, task.cancel = now, False
            task.fence, task.epoch = task.fence + 1, task.epoch + 1
            task.attempts = task.crashes = 0
            task.unknown_since = task.value = task.error = None
        return state

    def find(self, wanted: Filter) -> list[Known]:
        return [task for task in self.tasks.values() if task.fits(wanted)]

    def live(self) -> list[Known]:
        return [task for task in self.tasks.values() if task.live]

    def has_pending(self) -> bool:
        return any(self._waiting(None))

    def running(self) -> list[Known]:
        return self.find(Filter(State.RUNNING))

    def counts(self, queue: str | None) -> dict[State, int]:
        found = Counter(task.state for task in self.find(Filter(queue=queue)))
        return {state: found[state] for state in State}

    def prunable(self, wanted: Filter, ended_before: float) -> tuple[list[Known], int]:
        """What a prune may delete, and how much of it it must.

        After the wall clock was set back, one that is not old enough may stand before one that is;
        a store may stop there.
        """
        ended = sorted((t for t in self.tasks.values() if not t.live), key=lambda t: t.place)
        ages = [task.ended is not None and task.ended <= ended_before for task in ended]
        first_young = ages.index(False) if False in ages else len(ages)
        may = [t for t, is_old in zip(ended, ages, strict=True) if is_old and t.fits(wanted)]
        return may, sum(task.fits(wanted) for task in ended[:first_young])

    def holder(self, key: str | None) -> Known | None:
        if key is None:
            return None
        return next((t for t in self.tasks.values() if t.live and t.new.key == key), None)

    def held_by(self, worker: int) -> list[Known]:
        return [task for task in self.tasks.values() if task.worker == worker]

    def _by_seq(self, seq: int) -> Known | None:
        return next((task for task in self.tasks.values() if task.seq == seq), None)

    def _apply(self, task: Known, change: Change, now: float) -> None:
        self._move(task, change.state, now)
        task.run_at, task.epoch = change.run_at, change.epoch
        task.attempts, task.crashes = change.attempts, change.crashes
        task.unknown_since, task.value = change.unknown_since, change.value
        if change.error is not None or not task.live:
            task.error = change.error

    def _move(self, task: Known, state: State, now: float) -> None:
        assert state in TRANSITIONS[task.state].values(), f"{task.state} became {state}"
        task.state = state
        task.worker = task.ended = None
        if state in TERMINAL:
            self._ends += 1
            task.ended, task.place = now, self._ends

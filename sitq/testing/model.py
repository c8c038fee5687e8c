"""A store in plain Python: the tasks as they must be in it, and what each verb must answer.

It decides nothing of its own: what becomes of a task comes from `sitq.lifecycle`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from sitq import lifecycle
from sitq.backends.base import Filter, Recovered, Sweep, Wanted
from sitq.clock import to_microsecond
from sitq.errors import KeyTaken, LeaseLost, ReplayMismatch, WrongState
from sitq.lifecycle import TERMINAL, TRANSITIONS
from sitq.model import Change, Group, NewChild, NewTask, Note, ProgressRow, Reservation, State
from sitq.testing.known import Known, Member, Nursery

__all__ = ["Model"]

_TO_REPLACE = (State.FAILED, State.CANCELLED)


class Model:
    """All tasks, by id in the order of enqueueing, and all workers that have their lease."""

    def __init__(self) -> None:
        self.tasks: dict[bytes, Known] = {}
        self.members: dict[int, Member] = {}
        self.groups: dict[int, Nursery] = {}
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
        made = [
            # What a worker brings home does not know that the task was spared meanwhile.
            (task, change._replace(crashes=min(change.crashes, task.crashes)))
            for change in changes
            if (task := self._its_own(worker, change))
        ]
        self._apply_all(made, now)
        return {change.seq for _, change in made}

    def _its_own(self, worker: int, change: Change) -> Known | None:
        """The task, if the worker may change it so."""
        task = self._by_seq(change.seq)
        if task is None or task.worker != worker or task.fence != change.fence:
            return None
        return None if task.cancel and change.state is State.PENDING else task

    def progress(self, worker: int, notes: Iterable[Note]) -> None:
        for note in notes:
            task = self._by_seq(note.seq)
            if task is not None and (task.worker, task.fence) == (worker, note.fence):
                task.progress = ProgressRow(*note[2:])

    def cancelled(self, worker: int) -> set[int]:
        return {task.seq for task in self.held_by(worker) if task.cancel}

    def beat(self, worker: int, monotonic: float, lag: float | None = None) -> bool:
        member = self.members.get(worker)
        if member is not None:
            member.beat, member.suspect = monotonic, None
            member.lag = member.lag if lag is None else lag
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
        bound = to_microsecond(now - rules.unknown_after)
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
        made = [
            (
                task,
                lifecycle.crashed(
                    task.reservation(), rules.crash_limit, cancel_requested=task.cancel
                ),
            )
            for task in self.held_by(dead)
        ]
        self._apply_all(made, now)
        del self.members[dead]
        return [change for _, change in made]

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
        made = [(task, decide(task.reservation())) for task in due]
        self._apply_all(made, now)
        return [change for _, change in made]

    def cancel(self, id: bytes, now: float) -> State | None:
        task = self.tasks.get(id)
        if task is None:
            return None
        state = task.state
        task.cancel = task.cancel or task.live
        if state is State.PENDING:
            self._move(task, State.CANCELLED, now)
            self._end_below(task, now)
        return state

    def revive(self, id: bytes, now: float) -> State | None:
        task = self.tasks.get(id)
        if task is None:
            return None
        state = task.state
        if task.group is not None and not (self._parent_lives(task) and self._is_youngest(task)):
            raise WrongState
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

    def queues(self) -> list[str]:
        return sorted({task.new.queue for task in self.live()})

    def prunable(self, wanted: Filter, ended_before: float) -> tuple[list[Known], int]:
        """What a prune may delete, and how much of it it must.

        After the wall clock was set back, one that is not old enough may stand before one that is;
        a store may stop there.
        """
        ended = sorted((t for t in self.tasks.values() if not t.live), key=lambda t: t.place)
        ages = [task.ended is not None and task.ended <= ended_before for task in ended]
        first_young = ages.index(False) if False in ages else len(ages)
        fits = [task.fits(wanted) and not self._parent_lives(task) for task in ended]
        may = [t for t, *is_it in zip(ended, ages, fits, strict=True) if all(is_it)]
        return may, sum(fits[:first_young])

    def holder(self, key: str | None) -> Known | None:
        if key is None:
            return None
        return next((t for t in self.tasks.values() if t.live and t.new.key == key), None)

    def held_by(self, worker: int) -> list[Known]:
        return [task for task in self.tasks.values() if task.worker == worker]

    def _by_seq(self, seq: int) -> Known | None:
        return next((task for task in self.tasks.values() if task.seq == seq), None)

    # Groups.

    def open_group(self, id: int, parent: Known, ordinal: int, now: float) -> int:
        """The store has opened this one. Returns its generation."""
        known = self.groups.setdefault(id, Nursery(parent.new.id, ordinal, parent.epoch))
        assert (known.parent, known.ordinal) == (parent.new.id, ordinal), "another one's group"
        children = self.children(id)
        failed = any(c.state is State.FAILED and c.born == known.generation for c in children)
        if known.epoch != parent.epoch or (known.cancelled and not failed):
            known.generation += 1
            known.epoch, known.cancelled = parent.epoch, False
        for child in children if known.generation else ():
            if child.live and child.cancel:
                self._end_below(child, now)
                self._end(child, now)
        return known.generation

    def may_live(self, group: Group) -> bool:
        """Whether children of this group may live.

        Raises:
            LeaseLost: the run that opened it is over, and the task is not.
        """
        nursery = self.groups.get(group.id)
        parent = None if nursery is None else self.tasks.get(nursery.parent)
        if nursery is None or parent is None:
            raise LeaseLost
        if parent.live and (parent.state is State.PENDING or parent.fence != group.fence):
            raise LeaseLost
        return parent.live and not parent.cancel and not nursery.cancelled

    def spawn(self, group: Group, children: Sequence[NewChild], now: float) -> list[bytes]:
        """Store children, as they come; if one is refused, those before it are to be forgotten."""
        lives = self.may_live(group)
        found = [self._child(group.id, child.child) for child in children]
        for child, known in zip(children, found, strict=True):
            if known is not None and known.child and known.child.digest != child.digest:
                raise ReplayMismatch
        ids: list[bytes] = []
        fresh: list[Known] = []
        for child, known in zip(children, found, strict=True):
            if known and (known.born >= group.generation or known.state not in _TO_REPLACE):
                ids.append(known.new.id)
            else:
                ids.append(self._spawn(group, child, fresh))
        for known in filter(None, found):
            if known.new.id in ids:
                known.born = max(known.born, group.generation)
        for task in fresh if not lives else ():
            task.cancel = True
            self._move(task, State.CANCELLED, now)
            task.fence += 1
        return ids

    def _spawn(self, group: Group, child: NewChild, fresh: list[Known]) -> bytes:
        holder = self.holder(child.task.key)
        if holder is not None:
            if holder.group != group.id:
                raise KeyTaken
            return holder.new.id
        made = Known(child.task, child.task.run_at, group=group.id, child=child)
        made.born = group.generation
        self.tasks[child.task.id] = made
        fresh.append(made)
        return child.task.id

    def cancel_group(self, group: Group, now: float, *, at_once: bool) -> None:
        try:
            self.may_live(group)
        except LeaseLost:
            return
        self.groups[group.id].cancelled = True
        for task in self.children(group.id):
            if task.live and (at_once or task.state is State.PENDING):
                self._end_below(task, now)
                self._end(task, now)
            elif task.live:
                task.cancel = True

    def children(self, group: int) -> list[Known]:
        return [task for task in self.tasks.values() if task.group == group]

    def ended_children(self, group: Group) -> list[Known]:
        """Those that count for who waits for the group."""
        return [
            task
            for task in self.children(group.id)
            if not task.live and (task.state is State.SUCCEEDED or task.born >= group.generation)
        ]

    def below(self, parent: Known) -> list[Known]:
        """The children of a task, those of each group in their order."""
        ids = [id for id, group in self.groups.items() if group.parent == parent.new.id]
        return [task for task in self.tasks.values() if task.group in ids]

    def forget(self, id: bytes) -> None:
        """A task was deleted, and its groups with it."""
        del self.tasks[id]
        self.groups = {key: one for key, one in self.groups.items() if one.parent != id}

    def parent(self, task: Known) -> Known | None:
        nursery = None if task.group is None else self.groups.get(task.group)
        return None if nursery is None else self.tasks.get(nursery.parent)

    def _child(self, group: int, name: str) -> Known | None:
        """The youngest of this name."""
        named = [t for t in self.children(group) if t.child and t.child.child == name]
        return max(named, key=lambda task: task.born, default=None)

    def _is_youngest(self, task: Known) -> bool:
        """Whether no other was enqueued in its place since."""
        assert task.group is not None
        assert task.child is not None
        youngest = self._child(task.group, task.child.child)
        return youngest is not None and youngest.born == task.born

    def _parent_lives(self, task: Known) -> bool:
        parent = self.parent(task)
        return parent is not None and parent.live

    def _end_below(self, task: Known, now: float) -> None:
        for child in self.below(task):
            if child.live:
                self._end_below(child, now)
                self._end(child, now)

    def _end(self, task: Known, now: float) -> None:
        """It is cancelled, whatever it is doing."""
        self._move(task, State.CANCELLED, now)
        task.cancel, task.unknown_since = True, None
        task.fence += 1

    def _apply_all(self, made: Sequence[tuple[Known, Change]], now: float) -> None:
        """First all of them, then what they mean for parents and children."""
        for task, change in made:
            self._apply(task, change, now)
        for task, _ in made:
            parent = self.parent(task)
            if parent is not None and parent.live and not task.live:
                parent.crashes = 0
        for task, change in made:
            if not task.live or change.error is not None:
                self._end_below(task, now)

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

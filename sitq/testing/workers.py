"""Rules of `QueueMachine`: what workers do, how they die, and how time goes by."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from sitq.backends.base import Wanted
from sitq.model import Change, Note, Outcome, OutcomeKind, Reservation, WorkerRecord
from sitq.testing.draws import NAMES, Draft, Pick, Tale, batches, numbers, picks, queues, tales
from sitq.testing.known import Known
from sitq.testing.stage import Stage

__all__ = ["WorkerRules"]

T = TypeVar("T")

CREW = 4
"""Workers at a time."""
HOUR = 3_600.0
ENDS = (
    Outcome(OutcomeKind.FAILED, error=b"error"),
    Outcome(OutcomeKind.RELEASED),
    Outcome(OutcomeKind.SUCCEEDED, value=b"done"),
)
_while_busy = precondition(lambda self: self.model.running())
_names = st.sampled_from(((), (), *((name,) for name in NAMES), NAMES))


class WorkerRules(Stage):
    """What workers do, how they die, and how time goes by."""

    @initialize(leases=st.sampled_from((1, 2)), batch=batches)
    def begin(self, leases: int, batch: list[Draft]) -> None:
        self.hire(1)
        self.hire(leases)
        self.store(batch)

    @rule(leases=st.sampled_from((1, 1, 2)))
    @precondition(lambda self: len(self.workers) < CREW)
    def hire(self, leases: int) -> None:
        lease = self.lease * leases
        record = WorkerRecord("here", 1, None, 10, lease)
        worker = self.door(lambda backend: backend.hire(record))
        assert worker not in self.ever, "a worker's id came a second time"
        self.ever.append(worker)
        self.model.hire(worker, lease, self.clock.monotonic())
        self.workers.append(worker)
        heart = self.door.any().heart(worker)
        if heart is not None:
            self.hearts[worker] = heart

    @rule(which=numbers)
    def dismiss(self, which: int) -> None:
        """A worker that holds nothing leaves; one that holds something keeps its lease."""
        worker = self._worker(which)
        self.door(lambda backend: backend.dismiss(worker))
        if not self.model.held_by(worker):
            self.model.members.pop(worker, None)
            self.retire(worker)

    @rule(
        which=numbers,
        limit=st.integers(1, 6),
        batch=batches,
        picked=st.lists(picks, max_size=3),
    )
    def work(self, which: int, limit: int, batch: list[Draft], picked: list[Pick]) -> None:
        """As an idle worker does; if there is nothing to do, there is now. Some of it is done."""
        if not self.model.has_pending():
            self.store(batch)
        worker = self._worker(which)
        self.take(worker, Wanted(limit, None, (), not self.holds_suspect(worker)))
        self._settle(worker, picked)

    @rule(which=numbers, limit=st.integers(1, 6), queues=queues, skip=_names, suspect=st.booleans())
    def reserve(
        self,
        which: int,
        limit: int,
        queues: tuple[str, ...] | None,
        skip: tuple[str, ...],
        suspect: bool,
    ) -> None:
        worker = self._worker(which)
        suspect = suspect and not self.holds_suspect(worker)
        self.take(worker, Wanted(limit, queues, skip, suspect))

    @rule(which=numbers, picked=st.lists(picks, min_size=1, max_size=4))
    @precondition(lambda self: self.past)
    def settle(self, which: int, picked: list[Pick]) -> None:
        """Any runs in one batch: of this worker, or of others, or long over."""
        self._settle(self._busy_one(which), picked)

    def _settle(self, worker: int, picked: list[Pick]) -> None:
        changes: dict[tuple[int, int], Change] = {}
        for pick in picked:
            run = self._run_of(worker, pick)
            if run is not None:
                changes[run.seq, run.fence] = self._end(run, pick)
        if changes:
            self.bring_home(worker, list(changes.values()))

    @rule(which=numbers, told=st.lists(tales, min_size=1, max_size=3))
    @precondition(lambda self: self.past)
    def tell(self, which: int, told: list[Tale]) -> None:
        """Of any runs in one batch, as `settle` ends them."""
        worker = self._busy_one(which)
        notes: dict[tuple[int, int], Note] = {}
        for tale in told:
            run = self._run_of(worker, tale)
            assert run is not None
            what = (tale.done, tale.total, tale.note, self.now)
            notes[run.seq, run.fence] = Note(run.seq, run.fence, *what)
        self.model.progress(worker, notes.values())
        self.door(lambda backend: backend.progress(worker, list(notes.values())))

    def _run_of(self, worker: int, pick: Pick | Tale) -> Reservation | None:
        """Of this worker, if it has any; or any run that ever was."""
        own = [run for owner, run in self.past if owner == worker and self._is_current(run)]
        runs = [run for _, run in self.past] if pick.stray or not own else own
        return self._one_of(runs, pick.which) if runs else None

    def _busy_one(self, which: int) -> int:
        """A worker that holds something, rather than one that holds nothing, or is no more."""
        busy = [worker for worker in self.ever if self.model.held_by(worker)]
        return self._one_of(3 * busy + self.ever, which)

    def _is_current(self, run: Reservation) -> bool:
        task = self.model.tasks.get(run.id)
        return task is not None and task.worker is not None and task.fence == run.fence

    def _end(self, run: Reservation, pick: Pick) -> Change:
        task = self.model.tasks.get(run.id)
        is_to_end = task is not None and task.cancel and pick.saw_cancel
        return self.decide(run, pick.outcome(), saw_cancel=is_to_end)

    @rule(which=numbers, known=_names, queues=queues)
    def sweep(self, which: int, known: tuple[str, ...], queues: tuple[str, ...] | None) -> None:
        """A recovery by a worker that does not know every function, and a look for cancels."""
        worker = self._worker(which)
        own = [run.seq for owner, run in self.past if owner == worker]
        held = {task.seq for task in self.model.held_by(worker)}
        found = self.door(lambda backend: backend.cancelled(worker, own))
        assert found == self.model.cancelled(worker) | {*own} - held
        self.recover(worker, known, queues)

    @rule(which=numbers, lapses=st.booleans())
    @_while_busy
    def crash(self, which: int, lapses: bool) -> None:
        """A worker dies without a word. When its lease is over, another takes what it held."""
        self.retire(self._worker(which))
        if lapses:
            self._go_on_without(None)
            self._check_all_came_back()
            survivor = self._worker(which)
            self.take(survivor, Wanted(6, None, (), not self.holds_suspect(survivor)))

    @rule(
        parts=st.sampled_from((0.0, 1.0, 2.0)), odd=st.sampled_from((0.5, 1.0)), idle=st.booleans()
    )
    def time_goes_by(self, parts: float, odd: float, idle: bool) -> None:
        """And the living do what they always do, unless they are ``idle``."""
        self.clock.travel(parts * self.lease / 3 + odd)
        if not idle:
            self._upkeep()

    @rule(first=numbers)
    @_while_busy
    def stand_still(self, first: int) -> None:
        """Nothing gets through to the store for longer than a lease: nobody is dead after it."""
        self._upkeep()
        living = [worker for worker in self.workers if worker in self.model.members]
        before = {worker: self._alone(worker) for worker in living}
        self.clock.travel(2 * self.lease)
        turn = first % max(1, len(living))
        for worker in living[turn:] + living[:turn]:
            self.beat(worker)
        for worker in living:
            assert worker in self.model.members, "a living worker was taken for dead"
            assert self._alone(worker) == before[worker]

    def _alone(self, worker: int) -> list[bytes]:
        """What it holds that has no parent, whose deadline might pass."""
        return [task.new.id for task in self.model.held_by(worker) if task.group is None]

    @rule(which=numbers)
    @precondition(lambda self: len(self.workers) > 1 and self.model.running())
    def oversleep(self, which: int) -> None:
        """A worker is stopped for so long that it loses its lease, and does not know yet."""
        late = self._worker(which)
        self._go_on_without(late)
        assert self.workers == [late] or late not in self.model.members

    @rule(hours=st.sampled_from((1, -1)))
    @_while_busy
    def jump(self, hours: int) -> None:
        """The wall clock is set: no lease depends on it."""
        self._upkeep()
        members = set(self.model.members)
        self.clock.jump(hours * HOUR)
        self._upkeep()
        assert set(self.model.members) == members, "a jump of the clock took a lease"

    @rule()
    @precondition(lambda self: len(self.past) >= self.drained + 12)
    def drain(self) -> None:
        """Everything that can run is run; then nothing is left, and everybody can go."""
        self.hire(1)
        self._go_on_without(None)
        self._check_all_came_back()
        for _ in range(1_000):
            if not self.model.live():
                break
            self._work_once()
        assert not self.model.live(), "a task never came"
        for worker in tuple(self.workers):
            self.dismiss(self.workers.index(worker))
        assert not self.model.members
        self.drained: int = len(self.past)

    def _work_once(self) -> None:
        """Each worker takes what it can and ends it; then it is time for the next delayed one."""
        for worker in tuple(self.workers):
            self.take(worker, Wanted(100, None, (), not self.holds_suspect(worker)))
            ends = [self._end_somehow(task) for task in self.model.held_by(worker)]
            if ends:
                self.bring_home(worker, ends)
        next_due = min((task.run_at for task in self.model.live()), default=self.now)
        self.clock.jump(max(0.0, next_due - self.now))
        self._upkeep()

    def _end_somehow(self, task: Known) -> Change:
        """It fails, then it is released, then it succeeds: from somewhere along that way."""
        outcome = ENDS[task.fence % len(ENDS)]
        return self.decide(task.reservation(), outcome, saw_cancel=task.cancel)

    def holds_suspect(self, worker: int) -> bool:
        return any(task.crashes for task in self.model.held_by(worker))

    def _go_on_without(self, absent: int | None) -> None:
        for _ in range(2):
            self.clock.travel(2 * self.lease)
            self._upkeep(absent)

    def _upkeep(self, absent: int | None = None) -> None:
        """Every living worker beats and looks for dead ones."""
        present = [worker for worker in self.workers if worker != absent]
        for verb in (self.beat, self.recover):
            for worker in present:
                if worker in self.workers:
                    verb(worker)

    def _check_all_came_back(self) -> None:
        if self.workers:
            held = {task.worker for task in self.model.tasks.values()} - {None}
            assert held <= set(self.workers), "what a dead worker held did not come back"

    def _worker(self, which: int) -> int:
        if not self.workers:
            self.hire(1)
        return self._one_of(self.workers, which)

    def _one_of(self, some: list[T], which: int) -> T:
        return some[which % len(some)]

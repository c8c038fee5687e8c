"""Holds what happened in one life against what sitq promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sitq import Result, State
from sitq.clock import MICROSECOND
from sitq.lifecycle import TERMINAL, TRANSITIONS
from sitq.model import TaskRow

from .functions import ATTEMPTS, POLICY, End
from .journal import Entry, Row
from .world import CRASH_LIMIT, LEASE, Run, World

__all__ = ["judge"]


def judge(world: World, rows: list[TaskRow]) -> list[str]:
    """The promises that were broken.

    Args:
        world: what was noted, and what the triggers saw.
        rows: the tasks at the end.
    """
    verdict = _Verdict(world)
    verdict.replay()
    verdict.compare(rows)
    return world.broken + verdict.broken


class _Verdict:
    """Goes through the journal with the rows as they were at each moment."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.broken: list[str] = []
        self._rows: dict[int, Row] = {}
        self._ends: Counter[bytes] = Counter()
        self._gone: set[bytes] = set()
        self._stored: set[bytes] = set()
        self._reserved: set[tuple[int, int]] = set()
        self._ended_by: set[tuple[int | None, int, int]] = set()
        self._ends_seen: set[tuple[bytes, State]] = set()

    def _demand(self, holds: bool, entry: object, broken: str) -> None:
        if not holds:
            self.broken.append(f"{broken}: {entry}")

    def replay(self) -> None:
        journal = self._world.journal
        moment = 0.0
        for place, entry in enumerate(journal):
            if entry.moment > moment:  # each transaction was whole by then
                moment = entry.moment
                self._no_orphans(entry)
            if entry.worker is not None:
                self._lease_ended(entry)
            elif entry.new is None:
                self._deleted(entry)
            elif entry.old is None:
                self._is_stored(entry, entry.new)
            else:
                self._changed(entry, entry.old, entry.new)
                if entry.new.state is State.RUNNING and entry.old.state is State.PENDING:
                    self._in_order(journal, place, entry.new)
            self._keys_are_unique(entry)

    def _is_stored(self, entry: Entry, new: Row) -> None:
        self._demand(new.id not in self._stored, entry, "stored twice")
        self._demand(new.state is State.PENDING, entry, "not pending at first")
        self._stored.add(new.id)
        self._rows[new.seq] = new

    def _deleted(self, entry: Entry) -> None:
        assert entry.old is not None
        self._demand(entry.old.state in TERMINAL, entry, "a live task was deleted")
        parent = self._parent(entry.old)
        lives = parent is not None and parent.state not in TERMINAL
        self._demand(not lives, entry, "a child of a living parent was deleted")
        self._gone.add(entry.old.id)
        del self._rows[entry.old.seq]

    def _changed(self, entry: Entry, old: Row, new: Row) -> None:
        self._demand(self._rows[new.seq] == old, entry, "changed unseen")
        self._rows[new.seq] = new
        if old.state is not new.state:
            allowed = TRANSITIONS[old.state].values()
            self._demand(new.state in allowed, entry, f"from {old.state} to {new.state}")
        if new.state in TERMINAL and old.state not in TERMINAL:
            self._ends[new.id] += 1
            self._ends_seen.add((new.id, new.state))
        match old.state, new.state:
            case State.PENDING, State.RUNNING:
                self._was_reserved(entry, old, new)
            case ((State.PENDING | State.RUNNING), State.CANCELLED) if new.fence == old.fence + 1:
                self._ended_with_its_parent(entry, new)
            case State.RUNNING, State.RUNNING:
                self._demand(new.fence == old.fence, entry, "the fence changed")
            case State.RUNNING, _:
                self._run_ended(entry, old, new)
            case ((State.FAILED | State.CANCELLED), State.PENDING):
                self._demand(new.fence == old.fence + 1, entry, "revived without a new fence")
            case _:
                self._demand(new.fence == old.fence, entry, "the fence changed")
        self._demand(new.attempts <= ATTEMPTS, entry, "too many attempts")
        self._demand(new.crashes <= CRASH_LIMIT, entry, "too many crashes")

    def _parent(self, row: Row) -> Row | None:
        if row.group is None:
            return None
        return self._rows.get(self._world.parents[row.group])

    def _ended_with_its_parent(self, entry: Entry, new: Row) -> None:
        self._demand(new.group is not None, entry, "cancelled without being asked")

    def _no_orphans(self, entry: Entry) -> None:
        for row in self._rows.values():
            if row.group is not None and row.state not in TERMINAL:
                parent = self._parent(row)
                lives = parent is not None and parent.state not in TERMINAL
                self._demand(lives, entry, f"task {row.seq} lives, and its parent does not")

    def _was_reserved(self, entry: Entry, old: Row, new: Row) -> None:
        assert new.started is not None
        self._reserved.add((new.seq, new.fence))
        self._demand(new.fence == old.fence + 1, entry, "reserved without a new fence")
        self._demand(new.run_at <= new.started, entry, "came early")
        late = new.deadline is not None and new.deadline <= new.started
        self._demand(not late, entry, "started after its deadline")
        self._demand(not new.cancel, entry, "started though cancelled")
        if new.crashes:
            parents = set(self._world.parents.values())  # they may only wait
            held = [r for r in self._held_by(new.worker) if r.crashes and r.seq not in parents]
            self._demand(held in ([], [new]), entry, "a worker holds two suspects")

    def _held_by(self, worker: int | None) -> list[Row]:
        return [r for r in self._rows.values() if r.state is State.RUNNING and r.worker == worker]

    def _run_ended(self, entry: Entry, old: Row, new: Row) -> None:
        self._ended_by.add((old.worker, old.seq, old.fence))
        self._demand(new.fence == old.fence, entry, "the fence changed")
        run = self._world.runs.get((old.seq, old.fence))
        end = None if run is None else run.end
        match new.state:
            case State.SUCCEEDED:
                self._demand(end is End.RETURNED, entry, "nothing was returned")
            case State.CANCELLED:
                self._demand(bool(old.cancel), entry, "nobody cancelled it")
            case State.PENDING:
                self._demand(not old.cancel, entry, "went back though cancelled")
        self._counts_are_right(entry, old, new, run)

    def _counts_are_right(self, entry: Entry, old: Row, new: Row, run: Run | None) -> None:
        """A failure is an attempt, the death of a worker a crash, and anything else is neither."""
        attempts, crashes = new.attempts - old.attempts, new.crashes - old.crashes
        failed = run is not None and (
            run.end is End.RAISED or (run.end is End.CANCELLED and run.has_limit)
        )
        is_settled = any(
            (old.worker, old.seq, old.fence) in line.settles for line in self._world.lines
        )
        if attempts:
            self._demand(failed and attempts == 1, entry, "no attempt had failed")
        if new.state is State.SUCCEEDED:
            self._demand(new.crashes == attempts == 0, entry, "counted wrongly")
        elif crashes:
            died = self._is_excused(old.worker, entry.moment)
            self._demand((attempts, crashes) == (0, 1) and died, entry, "nobody had died")
            least = State.PENDING if new.crashes < CRASH_LIMIT else State.FAILED
            self._demand(new.state in (least, State.CANCELLED), entry, "not by the limit")
        else:
            self._demand(is_settled, entry, "a crash was not counted")

    def _lease_ended(self, entry: Entry) -> None:
        assert entry.worker is not None
        self._demand(not self._held_by(entry.worker), entry, "a lease ended that held tasks")
        dismissed = any(entry.worker in line.dismissed for line in self._world.lines)
        excused = dismissed or self._is_excused(entry.worker, entry.moment)
        self._demand(excused, entry, "a living worker was taken for dead")

    def _is_excused(self, worker: int | None, moment: float) -> bool:
        """Whether something had kept the worker from its beats."""
        since = moment - 2 * LEASE
        return any(
            worker not in line.heard or line.was_troubled(since, moment)
            for line in self._world.lines
            if worker in line.given
        )

    def _in_order(self, journal: list[Entry], place: int, given: Row) -> None:
        """No task that could have been had in its place comes before it."""
        together = {given.seq}
        for entry in journal[place + 1 :]:
            new = entry.new
            if new is None or new.worker != given.worker or new.started != given.started:
                break
            together.add(new.seq)
        for other in self._rows.values():
            if other.seq not in together and self._could_be_had(other, given):
                ahead = (-other.priority, other.run_at, other.seq)
                behind = (-given.priority, given.run_at, given.seq)
                self._demand(ahead > behind, journal[place], f"ahead of task {other.seq}")

    def _could_be_had(self, other: Row, given: Row) -> bool:
        assert given.started is not None
        return (
            other.state is State.PENDING
            and not other.crashes
            and other.name != "strange"
            and other.run_at <= given.started
            and (other.deadline is None or other.deadline > given.started)
        )

    def _keys_are_unique(self, entry: Entry) -> None:
        if entry.new is not None and entry.new.key is not None:
            live = [r for r in self._rows.values() if r.state not in TERMINAL and r.key]
            self._demand(
                len({row.key for row in live}) == len(live), entry, "two live tasks with one key"
            )

    def compare(self, rows: list[TaskRow]) -> None:
        """What the callers heard, and what ran, with what is there at the end."""
        seen = {row.id: row.state for row in self._rows.values()}
        found = {row.id: row.state for row in rows}
        self._demand(seen == found, (seen, found), "the rows are not those of the journal")
        for row in rows:
            self._demand(row.state in TERMINAL, row, "a task has not ended")
        for id, ends in self._ends.items():
            most = 1 + self._world.revived[id]
            self._demand(ends <= most, id.hex(), f"ended {ends} times")
        for line in self._world.lines:
            for batch in line.batches:
                self._whole_or_absent([task.id for task in batch.tasks if task.key is None])
                for id in batch.answer or ():
                    self._demand(id in self._stored, id.hex(), "an acknowledged task was lost")
            self._demand(line.settled <= self._ended_by, line.name, "settled what was not its own")
            for delay in line.delays:
                within = POLICY.base - MICROSECOND <= delay <= POLICY.cap + MICROSECOND
                self._demand(within, delay, "a retry's delay")
        self._demand(self._world.runs.keys() <= self._reserved, "", "something ran unreserved")
        self._heard(self._world.answers)

    def _whole_or_absent(self, ids: list[bytes]) -> None:
        stored = sum(id in self._stored for id in ids)
        self._demand(stored in (0, len(ids)), [id.hex() for id in ids], "a batch was torn")

    def _heard(self, answers: Iterable[Result]) -> None:
        for result in answers:
            ended = result.id.bytes, result.state
            self._demand(ended in self._ends_seen, result, "a result that never was")

"""Rules of `QueueMachine`: what tasks do that have others below them."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from sitq.errors import KeyTaken, LeaseLost, ReplayMismatch
from sitq.model import Group, NewChild, NewGroup, Reservation
from sitq.testing.draws import Draft, drafts, numbers
from sitq.testing.known import Known
from sitq.testing.stage import Stage

__all__ = ["FamilyRules"]

FULL = 40
"""Tasks above which no more are stored."""
REFUSALS = (KeyTaken, LeaseLost, ReplayMismatch)
_has_run = precondition(lambda self: self.past)
_has_group = precondition(lambda self: self.opened)
_litters = st.lists(
    st.tuples(st.sampled_from("abc"), drafts), min_size=1, max_size=3, unique_by=lambda one: one[0]
)


class FamilyRules(Stage):
    """What tasks do that open groups, and what becomes of these."""

    @rule(which=numbers, ordinal=st.integers(0, 1), litter=_litters)
    @_has_run
    def spawn(self, which: int, ordinal: int, litter: list[tuple[str, Draft]]) -> None:
        """A run opens a group, and enqueues into it. It may be over long since."""
        group = self._open(self._some_run(which), ordinal)
        if group is not None:
            self._fill(group, litter)

    @rule(which=numbers, litter=_litters)
    @_has_group
    def spawn_more(self, which: int, litter: list[tuple[str, Draft]]) -> None:
        """Into a group that was opened before, by a run that may be over."""
        self._fill(self._some_group(which), litter)

    @rule(which=numbers, at_once=st.booleans())
    @_has_group
    def cancel_group(self, which: int, at_once: bool) -> None:
        group = self._some_group(which)
        self.model.cancel_group(group, self.now, at_once=at_once)
        self.door(lambda backend: backend.cancel_group(group, at_once=at_once))

    @rule(which=numbers)
    @_has_group
    def join(self, which: int) -> None:
        """Who waits for a group hears of every end, and of the last one."""
        group = self._some_group(which)
        ended = self.model.ended_children(group)
        if ended or not any(task.live for task in self.model.children(group.id)):
            ends = self.door(lambda backend: backend.ended_children(group, 0, 1 << 20))
            told = {(end.id, end.state, end.value) for end in ends}
            assert told == {(task.new.id, task.state, task.value) for task in ended}
            assert len(ends) == len(ended)
            assert [end.number for end in ends] == sorted(end.number for end in ends)

    @rule(which=numbers)
    @precondition(lambda self: self.model.tasks)
    def look_below(self, which: int) -> None:
        tasks = [*self.model.tasks.values()]
        top = tasks[which % len(tasks)]
        rows = self.door(lambda backend: backend.tree(top.new.id, 1_000))
        assert {(parent, row.id) for parent, row in rows} == self._tree(None, top)

    def _tree(self, parent: int | None, top: Known) -> set[tuple[int | None, bytes]]:
        found = {(parent, top.new.id)}
        for child in self.model.below(top):
            found |= self._tree(top.seq, child)
        return found

    def _open(self, run: Reservation, ordinal: int) -> Group | None:
        task = self.model.tasks.get(run.id)
        is_run = task is not None and task.worker is not None and task.fence == run.fence
        new = NewGroup(run.seq, run.fence, run.epoch, ordinal)
        group: Any = self.door(lambda backend: _refused(backend.open_group(new)))
        assert isinstance(group, Group) == is_run, "a run that is over opened a group, or none did"
        if task is None or not is_run:
            return None
        assert group.generation == self.model.open_group(group.id, task, ordinal, self.now)
        self.opened.append(group)
        return group

    def _fill(self, group: Group, litter: list[tuple[str, Draft]]) -> None:
        if len(self.model.tasks) >= FULL:
            return
        children = [
            NewChild(self.new_task(draft), name, draft.body[:1].encode()) for name, draft in litter
        ]
        before = copy.copy(self.model.tasks)
        expected: Any
        try:
            expected = self.model.spawn(group, children, self.now)
        except REFUSALS as error:
            self.model.tasks = before
            expected = type(error)
        stored = any(child.task.id in self.model.tasks for child in children)
        told: Any = self.door.waking(
            lambda backend: _refused(backend.insert_children(group, children)), lambda _: stored
        )
        assert told == expected

    def _some_run(self, which: int) -> Reservation:
        """A current one rather than another."""
        runs = [run for _, run in self.past]
        current = [task.reservation() for task in self.model.running()]
        some = [*runs[-3:], *current, *current, *current]
        return some[which % len(some)]

    def _some_group(self, which: int) -> Group:
        some = self.opened[-6:]
        return some[which % len(some)]


async def _refused(verb: Any) -> Any:
    """What the verb answers, or the class of the error with which it refuses."""
    try:
        return await verb
    except REFUSALS as error:
        return type(error)

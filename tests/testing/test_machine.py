"""A `QueueMachine` of somebody else: with rules, invariants and a store of their own."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from sitq import SQLiteBackend, State
from sitq.backends.base import Backend, Filter
from sitq.model import TaskRow
from sitq.testing import Clock, QueueMachine

# The same each time, and what fails is not made any simpler: that would take long.
FEW = settings(
    max_examples=20,
    stateful_step_count=15,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
)


class Forgetful(SQLiteBackend):
    """Loses the second task of each page."""

    async def find(self, wanted: Filter, *, after: int, limit: int) -> list[TaskRow]:
        rows = await super().find(wanted, after=after, limit=limit)
        return rows[:1] + rows[2:]


class Audited(QueueMachine):
    """Counts what nobody else does, by rules beside those that there are."""

    asked = 0
    checked = 0

    @rule(queue=st.sampled_from(["default", "nobody's"]))
    def ask_for_numbers(self, queue: str) -> None:
        numbers = self.door(lambda backend: backend.counts(queue))
        assert numbers == self.model.counts(queue)
        type(self).asked += 1

    @invariant()
    def who_runs_has_started(self) -> None:
        rows = self.door(lambda backend: backend.find(Filter(State.RUNNING), after=0, limit=100))
        assert all(row.started is not None and row.ended is None for row in rows)
        type(self).checked += 1


class OverForgetful(QueueMachine):
    def make_backend(self, clock: Clock) -> Backend:
        return Forgetful(":memory:", clock=clock)


class Impatient(QueueMachine):
    @invariant()
    def nothing_is_ever_stored(self) -> None:
        assert not self.model.tasks, "somebody stored a task"


def test_rules_and_invariants_of_ones_own_are_used() -> None:
    run_state_machine_as_test(Audited, settings=FEW)
    assert Audited.asked > 0
    assert Audited.checked >= 10


def test_a_store_that_loses_tasks_is_found_out() -> None:
    with pytest.raises(AssertionError, match="a task was lost"):
        run_state_machine_as_test(OverForgetful, settings=FEW)


def test_an_invariant_of_ones_own_can_fail() -> None:
    with pytest.raises(AssertionError, match="somebody stored a task"):
        run_state_machine_as_test(Impatient, settings=FEW)

"""Drives a store at random and compares it, after every step, with a model in plain Python.

The model's oracle is `sitq.lifecycle`: it decides, the store must follow. To check a store of your
own, subclass `QueueMachine`, give `make_backend`, and collect ``YourMachine.TestCase``.
"""

from __future__ import annotations

from collections import Counter

from hypothesis.stateful import invariant

from sitq.clock import to_microsecond
from sitq.model import State
from sitq.testing.callers import CallerRules
from sitq.testing.door import PATIENCE
from sitq.testing.families import FamilyRules
from sitq.testing.workers import WorkerRules

__all__ = ["QueueMachine"]


class QueueMachine(CallerRules, WorkerRules, FamilyRules):
    """Checks a backend against the life of a task: every verb, several workers, and their deaths.

    Override `make_backend`; `make_peer` where the store can be opened twice, and `check_closed` for
    checks that only your store can have.

    Attributes:
        loop: the event loop on which the backend runs, ``"asyncio"`` or ``"trio"``.
        crash_limit: so many workers may die under a task before it fails.
        lease: seconds without a beat after which a worker is taken for dead; some get twice that.
        unknown_after: seconds after which a task fails that no worker knows.
        retry: the policy of every task.
    """

    @invariant()
    def store_is_as_the_model(self) -> None:
        rows, numbers, workers = self.door(self.read_all)
        assert [row.id for row in rows] == list(self.model.tasks), (
            "a task was lost, or came from nowhere, or in another order"
        )
        for row in rows:
            known = self.model.tasks[row.id]
            known.seq = known.seq or row.seq
            assert row._replace(value=None) == known.row()._replace(value=None)
        assert dict(numbers) == self.model.counts(None), "wrong numbers of tasks"
        now = self.clock.monotonic()
        members = {
            id: (member.lease, now - member.beat, member.lag, len(self.model.held_by(id)))
            for id, member in self.model.members.items()
        }
        found = {row.id: (row.lease, row.silent, row.lag, row.held) for row in workers}
        assert found == members

    @invariant()
    def who_waits_for_an_end_hears_of_it(self) -> None:
        for id, future in tuple(self.watched.items()):
            known = self.model.tasks.get(id)
            if known is not None and known.live:
                assert not future.done(), "told of the end of a task that lives"
            else:
                row = None if known is None else known.row()
                assert future.result(PATIENCE) == row
                del self.watched[id]

    @invariant()
    def promises_hold(self) -> None:
        tasks = self.model.tasks.values()
        keys = Counter(task.new.key for task in tasks if task.new.key and task.live)
        assert all(number == 1 for number in keys.values()), "two live tasks with one key"
        suspects = Counter(task.worker for task in tasks if task.crashes and task.worker)
        assert all(number == 1 for number in suspects.values()), "a worker holds two suspects"
        for task in tasks:
            assert task.run_at == to_microsecond(task.run_at)
            assert task.attempts <= self.retry.attempts
            assert task.crashes <= self.crash_limit
            assert (task.state is State.RUNNING) == (task.worker is not None)
            parent = self.model.parent(task)
            assert not task.live or task.group is None or (parent and parent.live), "an orphan"

"""Rules of `QueueMachine`: what those do who store tasks and ask for them."""

from __future__ import annotations

import anyio
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from sitq.backends.base import Backend, Filter
from sitq.clock import to_microsecond
from sitq.errors import KeyTaken, WrongState
from sitq.model import NewTask, State
from sitq.testing.door import PATIENCE
from sitq.testing.draws import Draft, batches, drafts, filters, numbers
from sitq.testing.known import Known
from sitq.testing.stage import Stage

__all__ = ["CallerRules"]

ABSENT = bytes(16)
"""The id of no task."""
FULL = 40
"""Tasks above which no more are stored: few are enough, and quicker to compare."""


class CallerRules(Stage):
    """What those do who store tasks and ask for them."""

    @rule(batch=batches)
    @precondition(lambda self: len(self.model.tasks) < FULL)
    def insert(self, batch: list[Draft]) -> None:
        self.store(batch)

    @rule(
        batch=st.lists(drafts, min_size=2, max_size=4), which=numbers, place=numbers, beside=drafts
    )
    @precondition(lambda self: len(self.model.tasks) < FULL)
    def insert_with_a_bad_row(
        self, batch: list[Draft], which: int, place: int, beside: Draft
    ) -> None:
        """A batch in which an id is taken leaves nothing, and does no harm to a good one."""
        first, *rest = (self.new_task(draft)._replace(key=None) for draft in batch)
        taken = [*self.model.tasks, first.id]
        rest[place % len(rest)] = rest[place % len(rest)]._replace(id=taken[which % len(taken)])
        good = [self.new_task(beside)]
        expected = self.model.insert(good)
        refused, ids = self.door(lambda backend: self._insert_both(backend, [first, *rest], good))
        assert refused, "a task was stored under an id that was taken"
        assert ids == expected

    async def _insert_both(
        self, backend: Backend, bad: list[NewTask], good: list[NewTask]
    ) -> tuple[bool, list[bytes]]:
        refused, ids = False, list[bytes]()

        async def insert_bad() -> None:
            nonlocal refused
            try:
                await backend.insert(bad)
            except Exception:
                refused = True

        async def insert_good() -> None:
            ids.extend(await backend.insert(good))

        async with anyio.create_task_group() as group:
            group.start_soon(insert_bad)
            group.start_soon(insert_good)
        return refused, ids

    @rule(which=numbers)
    def cancel(self, which: int) -> None:
        id = self._some_id(which)
        asked_before = id in self.model.tasks and self.model.tasks[id].cancel
        expected = self.model.cancel(id, self.now)
        state = self.door.waking(
            lambda backend: backend.cancel(id),
            lambda _: expected is State.RUNNING and not asked_before,
        )
        assert state == expected

    @rule(which=numbers)
    def revive(self, which: int) -> None:
        id = self._some_id(which)
        try:
            expected = self.model.revive(id, self.now)
        except (KeyTaken, WrongState) as error:
            self._refused_to_revive(id, type(error))
            return
        state = self.door.waking(
            lambda backend: backend.revive(id),
            lambda _: expected in (State.FAILED, State.CANCELLED),
        )
        assert state == expected

    def _refused_to_revive(self, id: bytes, error: type[Exception]) -> None:
        try:
            self.door(lambda backend: backend.revive(id))
        except error:
            return
        raise AssertionError(f"revived, which was to be refused with {error.__name__}")

    @rule(which=numbers, wanted=filters, size=st.integers(1, 4), first=numbers)
    def look(self, which: int, wanted: Filter, size: int, first: int) -> None:
        """At one task, until it ends; at queues and their numbers; page by page, from anywhere."""
        id = self._some_id(which)
        known = self.model.tasks.get(id)
        self.check(id)
        self._wait(id, known)
        found = self.door(lambda backend: backend.counts(wanted.queue))
        assert dict(found) == self.model.counts(wanted.queue)
        assert self.door(lambda backend: backend.queues()) == self.model.queues()
        arguments = self.door(lambda backend: backend.arguments(id))
        assert arguments == (None if known is None else known.new.arguments)
        after = first % (1 + max((task.seq for task in self.model.tasks.values()), default=0))
        expected = [task.seq for task in self.model.find(wanted) if task.seq > after]
        assert self._pages(wanted, after, size) == expected

    def _pages(self, wanted: Filter, after: int, size: int) -> list[int]:
        page = self._page(wanted, after, size)
        found = page
        while len(page) == size:
            page = self._page(wanted, page[-1], size)
            found = found + page
        return found

    def _page(self, wanted: Filter, after: int, size: int) -> list[int]:
        rows = self.door(lambda backend: backend.find(wanted, after=after, limit=size))
        return [row.seq for row in rows]

    @rule(wanted=filters, age=st.sampled_from((0.0, 0.0, 0.5, 5.0, -1.0)), limit=st.integers(1, 9))
    def prune(self, wanted: Filter, age: float, limit: int) -> None:
        before = to_microsecond(self.now - age)
        may, must = self.model.prunable(wanted, before)
        pruned = self.door(lambda backend: backend.prune(wanted, ended_before=before, limit=limit))
        assert min(limit, must) <= pruned.deleted <= limit
        self._forget(may, pruned.deleted)

    @rule(wanted=filters, size=st.integers(1, 4))
    def prune_all(self, wanted: Filter, size: int) -> None:
        """Call by call, each behind what the one before has looked at."""
        may, must = self.model.prunable(wanted, self.now)
        deleted = self.door(lambda backend: self._prune_all(backend, wanted, size))
        assert must <= deleted
        self._forget(may, deleted)

    async def _prune_all(self, backend: Backend, wanted: Filter, size: int) -> int:
        deleted, after = 0, 0
        while True:
            pruned = await backend.prune(wanted, ended_before=self.now, limit=size, after=after)
            deleted += pruned.deleted
            if pruned.last is None:
                return deleted
            after = pruned.last

    @rule(which=numbers)
    @precondition(lambda self: self.model.has_pending())
    def cancel_and_prune(self, which: int) -> None:
        """Who waits for the end of a task hears of it though the task is gone at once."""
        waiting = self.model.find(Filter(State.PENDING))
        task = waiting[which % len(waiting)]
        heard = self.watched.pop(task.new.id, None) or self.door.watch(task.new.id)
        self.model.cancel(task.new.id, self.now)
        may, must = self.model.prunable(Filter(), self.now)
        deleted = self.door(lambda backend: self._cancel_and_prune(backend, task.new.id))
        assert deleted >= must
        self._forget(may, deleted)
        assert heard.result(PATIENCE) in (None, task.row())

    async def _cancel_and_prune(self, backend: Backend, id: bytes) -> int:
        await backend.cancel(id)
        return await self._prune_all(backend, Filter(), 500)

    def _forget(self, may: list[Known], deleted: int) -> None:
        """Take what was deleted out of the model: so many, and only what was allowed to go."""
        rows, _, _ = self.door(self.read_all)
        left = {row.id for row in rows}
        gone = [task for task in self.model.tasks.values() if task.new.id not in left]
        assert len(gone) == deleted
        for task in gone:
            assert task in may, "it deleted a task that was to stay"
            self.model.forget(task.new.id)
            self.pruned.append(task.new.id)

    def _wait(self, id: bytes, known: Known | None) -> None:
        """`Backend.ended` returns at once for a task that is over or absent."""
        if known is not None and known.live:
            self.watched.setdefault(id, self.door.watch(id))
        else:
            row = self.door(lambda backend: backend.ended(id))
            assert row == (None if known is None else known.row())

    def _some_id(self, which: int) -> bytes:
        """Of a task, a running one rather than others; of one that was pruned, or of none."""
        running = [task.new.id for task in self.model.running()]
        ids = [ABSENT, *self.model.tasks, *running, *running, *self.pruned[-2:]]
        return ids[which % len(ids)]

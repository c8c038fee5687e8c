"""What a store promises of groups, without a worker: one transaction each, guarded by the fence."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sitq import SQLiteBackend, State, TaskQueue
from sitq.backends.base import Filter, Sweep, Wanted
from sitq.backends.postgres import PostgresBackend
from sitq.backends.sqlite import groups
from sitq.calls import new_ids
from sitq.errors import KeyTaken, LeaseLost, ReplayMismatch, WrongState
from sitq.model import (
    Change,
    Group,
    NewChild,
    NewGroup,
    NewTask,
    Reservation,
    TaskRow,
    WorkerRecord,
)

from ..postgres import tables

pytestmark = pytest.mark.anyio
RECORD = WorkerRecord("here", 1, None, 10, 60.0)


def new_task(name: str = "a", key: str | None = None, size: int = 1) -> NewTask:
    body = b"x" * size
    return NewTask(*new_ids(0.0, 1), name, "default", 0, 0.0, key, None, None, None, body, 0.0)


def child(name: str, digest: bytes = b"d", key: str | None = None, size: int = 1) -> NewChild:
    return NewChild(new_task(key=key, size=size), name, digest)


class Family:
    """A worker, and a parent that it runs."""

    def __init__(self, backend: SQLiteBackend) -> None:
        self.backend = backend
        self.worker = 0

    async def reserve(self, limit: int = 100) -> list[Reservation]:
        found: list[Reservation] = []
        await self.backend.reserve(self.worker, Wanted(limit, None), found.extend)
        return found

    async def parent(self, key: str | None = None) -> Reservation:
        self.worker = self.worker or await self.backend.hire(RECORD)
        await self.backend.insert([new_task("parent", key)])
        [found] = [task for task in await self.reserve() if task.name == "parent"]
        return found

    async def group(self, parent: Reservation, ordinal: int = 0, **more: Any) -> Group:
        new = NewGroup(parent.seq, parent.fence, parent.epoch, ordinal, **more)
        return await self.backend.open_group(new)

    async def settle(self, task: Reservation, state: State, **more: Any) -> set[int]:
        fields = {"value": b"v"} if state is State.SUCCEEDED else {"error": b"e"}
        change = Change(task.seq, task.fence, state, task.run_at, 0, 0, task.epoch, **fields)
        return await self.backend.settle(self.worker, [change._replace(**more)])

    async def rows(self) -> dict[bytes, TaskRow]:
        return {row.id: row for row in await self.backend.find(Filter(), after=0, limit=1000)}

    async def states(self, ids: list[bytes]) -> list[State]:
        rows = await self.rows()
        return [rows[id].state for id in ids]


@pytest.fixture
def family(backend: SQLiteBackend) -> Family:
    return Family(backend)


async def test_what_is_stored_once_is_found_again(family: Family, backend: SQLiteBackend) -> None:
    group = await family.group(await family.parent(), deadline=50.0)
    first = await backend.insert_children(group, [child("a"), child("b", size=5_000)])
    again = await family.group(await family_parent(family), deadline=70.0)
    assert again == group  # with the deadline that was stored first
    more = await backend.insert_children(again, [child("a"), child("b"), child("c")])
    assert more[:2] == first
    assert len(await family.rows()) == 4
    with pytest.raises(ReplayMismatch, match="child a"):
        await backend.insert_children(group, [child("d"), child("a", digest=b"other")])
    assert len(await family.rows()) == 4


async def family_parent(family: Family) -> Reservation:
    """The parent as it is reserved now."""
    [row] = [row for row in (await family.rows()).values() if row.name == "parent"]
    query = "SELECT fence FROM sitq_task WHERE seq = ?"
    [(fence,)] = await tables(family.backend, query, row.seq)
    return Reservation(
        row.seq, row.id, "parent", "default", 0, fence, 0, 0, 0, 0.0, None, None, None, b"", 0, None
    )


async def test_a_new_epoch_replaces_what_did_not_succeed(
    family: Family, backend: SQLiteBackend
) -> None:
    parent = await family.parent()
    group = await family.group(parent)
    names = ["good", "bad", "stopped", "live"]
    ids = await backend.insert_children(group, [child(name) for name in names])
    good, bad, stopped, _ = await family.reserve()
    await family.settle(good, State.SUCCEEDED)
    await family.settle(bad, State.FAILED)
    await family.settle(stopped, State.CANCELLED)
    await family.settle(parent, State.PENDING, attempts=1, epoch=1)
    assert await family.states(ids) == [
        State.SUCCEEDED,
        State.FAILED,
        State.CANCELLED,
        State.CANCELLED,
    ]
    [parent] = await family.reserve()
    group = await family.group(parent._replace(epoch=1), deadline=9.0)
    assert group.deadline == 9.0
    again = await backend.insert_children(group, [child(name) for name in names])
    assert again[0] == ids[0]
    assert set(again[1:]).isdisjoint(ids)
    ends = await backend.ended_children(group, 0)
    assert [(end.id, end.state) for end in ends] == [(ids[0], State.SUCCEEDED)]
    with pytest.raises(WrongState, match="group"):  # another one is in its place
        await backend.revive(ids[1])


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
async def test_the_end_of_a_task_is_the_end_of_all_below(
    family: Family, backend: SQLiteBackend, state: State
) -> None:
    parent = await family.parent()
    ids = await backend.insert_children(await family.group(parent), [child("a"), child("b")])
    first, second = await family.reserve()
    ids += await backend.insert_children(await family.group(first), [child("a")])
    [deep] = await family.reserve()
    ids += await backend.insert_children(await family.group(deep), [child("a"), child("b")])
    await family.settle(second, State.SUCCEEDED)
    assert await family.settle(parent, state) == {parent.seq}
    assert await family.states(ids) == [State.CANCELLED, State.SUCCEEDED, *[State.CANCELLED] * 3]
    assert await backend.cancelled(family.worker, [first.seq, deep.seq]) == {first.seq, deep.seq}
    assert await family.settle(deep, State.SUCCEEDED) == set()  # whatever its code was doing
    rows = await family.rows()
    assert rows[deep.id].state is State.CANCELLED


async def test_a_pending_parent_that_is_cancelled_takes_its_children_along(
    family: Family, backend: SQLiteBackend
) -> None:
    parent = await family.parent()
    ids = await backend.insert_children(await family.group(parent), [child("a"), child("b")])
    await family.reserve(1)
    await family.settle(parent, State.PENDING, error=None)
    assert await family.states(ids) == [State.RUNNING, State.PENDING]
    assert await backend.cancel(parent.id) is State.PENDING
    assert await family.states(ids) == [State.CANCELLED] * 2


async def test_children_of_a_parent_that_is_to_end_are_born_cancelled(
    family: Family, backend: SQLiteBackend
) -> None:
    parent = await family.parent()
    group = await family.group(parent)
    await backend.cancel(parent.id)
    ids = await backend.insert_children(group, [child("asked")])
    await family.settle(parent, State.CANCELLED)
    ids += await backend.insert_children(group, [child("over", key="k")])
    assert await family.states(ids) == [State.CANCELLED] * 2
    other = await family.group(await family.parent())
    await backend.cancel_group(other)
    ids = await backend.insert_children(other, [child("late")])
    assert await family.states(ids) == [State.CANCELLED]
    assert await backend.ended_children(other, 0) != []


async def test_a_run_that_is_over_changes_nothing(family: Family, backend: SQLiteBackend) -> None:
    parent = await family.parent()
    group = await family.group(parent)
    ids = await backend.insert_children(group, [child("a")])
    await family.settle(parent, State.PENDING, error=None)
    for _ in range(2):  # it waits; then another run has it
        with pytest.raises(LeaseLost):
            await family.group(parent)
        with pytest.raises(LeaseLost):
            await backend.insert_children(group, [child("b")])
        await backend.cancel_group(group)
        await backend.cancel_group(group, at_once=True)
        assert State.CANCELLED not in await family.states(ids)
        await family.reserve()
    assert len(await family.rows()) == 2


async def test_cancelling_a_group(family: Family, backend: SQLiteBackend) -> None:
    group = await family.group(await family.parent())
    ids = await backend.insert_children(group, [child("runs"), child("waits")])
    [runs] = await family.reserve(1)
    below = await backend.insert_children(await family.group(runs), [child("below")])
    await backend.cancel_group(group)
    assert await family.states(ids) == [State.RUNNING, State.CANCELLED]
    assert await backend.cancelled(family.worker) == {runs.seq}
    assert await family.states(below) == [State.PENDING]
    await backend.cancel_group(group, at_once=True)
    assert await family.states(ids + below) == [State.CANCELLED] * 3


async def test_keys(family: Family, backend: SQLiteBackend) -> None:
    group = await family.group(await family.parent(key="mine"))
    [first] = await backend.insert_children(group, [child("a", key="k")])
    assert await backend.insert_children(group, [child("b", key="k")]) == [first]
    with pytest.raises(KeyTaken, match="mine"):
        await backend.insert_children(group, [child("c"), child("d", key="mine")])
    assert len(await family.rows()) == 2
    with pytest.raises(KeyTaken):
        await backend.insert_children(
            await family.group(await family.parent()), [child("a", key="k")]
        )


async def test_a_child_is_revived_only_under_a_living_parent(
    family: Family, backend: SQLiteBackend
) -> None:
    parent = await family.parent()
    [id] = await backend.insert_children(await family.group(parent), [child("a")])
    await backend.cancel(id)
    assert await backend.revive(id) is State.CANCELLED
    assert await family.states([id]) == [State.PENDING]
    await family.settle(parent, State.SUCCEEDED)
    with pytest.raises(WrongState, match="group"):
        await backend.revive(id)
    assert await backend.revive(parent.id) is State.SUCCEEDED


async def test_no_child_of_a_living_parent_is_pruned(
    family: Family, backend: SQLiteBackend
) -> None:
    parent = await family.parent()
    [id] = await backend.insert_children(await family.group(parent), [child("a")])
    await backend.cancel(id)

    async def prune() -> int:
        found = await backend.prune(Filter(), ended_before=9e9, limit=10)
        return found.deleted

    assert await prune() == 0
    await family.settle(parent, State.SUCCEEDED)
    assert await prune() == 2
    assert await tables(backend, "SELECT count(*) FROM sitq_group") == [(0,)]


async def test_a_settled_child_spares_its_parent(family: Family, backend: SQLiteBackend) -> None:
    parent = await family.parent()
    group = await family.group(parent)
    ids = await backend.insert_children(group, [child("a"), child("b")])
    await tables(backend, "UPDATE sitq_task SET crashes = 2 WHERE seq = ?", parent.seq)
    first, _ = await family.reserve()
    await family.settle(first, State.SUCCEEDED)
    assert (await family.rows())[parent.id].crashes == 0
    assert (await family.states(ids))[0] is State.SUCCEEDED
    await family.settle(parent, State.PENDING, error=None, crashes=2)  # as it was reserved
    assert (await family.rows())[parent.id].crashes == 0


async def test_ends_come_in_their_order_and_with_their_values(
    family: Family, backend: SQLiteBackend
) -> None:
    group = await family.group(await family.parent())
    ids = await backend.insert_children(group, [child("a"), child("b"), child("c")])
    first, second, third = await family.reserve()
    await family.settle(second, State.SUCCEEDED)
    await family.settle(first, State.SUCCEEDED, value=b"x" * 5_000)
    ends = await backend.ended_children(group, 0, 10_000)
    assert [(end.id, end.value) for end in ends] == [(ids[1], b"v"), (ids[0], b"x" * 5_000)]
    await family.settle(third, State.SUCCEEDED)
    [last] = await backend.ended_children(group, ends[-1].number)
    assert last[1:] == (ids[2], "c", State.SUCCEEDED, None)
    assert await backend.ended_children(group, last.number) == []


async def test_a_tree(family: Family, backend: SQLiteBackend) -> None:
    parent = await family.parent()
    ids = await backend.insert_children(await family.group(parent), [child("a"), child("b")])
    first, _ = await family.reserve()
    ids += await backend.insert_children(await family.group(first), [child("a")])
    tree = await backend.tree(parent.id, 100)
    seqs = {row.id: row.seq for _, row in tree}
    assert [row.id for _, row in tree] == [parent.id, *ids]
    assert [up for up, _ in tree] == [None, parent.seq, parent.seq, seqs[ids[0]]]
    assert len(await backend.tree(parent.id, 2)) == 2
    assert await backend.tree(bytes(16), 100) == []
    shown = await TaskQueue(backend).tree(first.id.hex())
    assert shown is not None
    assert len(shown.children) == 1


async def test_a_sweep_that_fails_a_parent_ends_its_children(
    family: Family, backend: SQLiteBackend
) -> None:
    parent = await family.parent()
    ids = await backend.insert_children(await family.group(parent), [child("a")])
    await family.settle(parent, State.PENDING, error=None)
    past = datetime.fromtimestamp(1, UTC) if isinstance(backend, PostgresBackend) else 1.0
    await tables(backend, "UPDATE sitq_task SET deadline = ? WHERE seq = ?", past, parent.seq)
    await backend.recover(family.worker, Sweep(3, 60.0))
    assert (await family.rows())[parent.id].state is State.FAILED
    assert await family.states(ids) == [State.CANCELLED]


async def test_damaged_rows_below_end_too(family: Family, backend: SQLiteBackend) -> None:
    if isinstance(backend, PostgresBackend):
        return  # its tables hold no such rows
    parent = await family.parent()
    ids = await backend.insert_children(await family.group(parent), [child("a"), child("b")])

    def spoil(connection: Any) -> None:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE sitq_task SET attempts = -5 WHERE id = ?", (ids[0],))
        connection.execute("PRAGMA ignore_check_constraints = OFF")

    assert backend._opened is not None
    await backend._opened.writer.run(spoil)
    await family.settle(parent, State.FAILED)
    assert await family.states(ids) == [State.CANCELLED] * 2


class Between:
    """A connection at which something happens after the first of two looks."""

    def __init__(self, connection: Any, happens: Callable[[], object]) -> None:
        self._connection = connection
        self._happens: Callable[[], object] | None = happens

    def execute(self, *what: Any) -> Any:
        rows = self._connection.execute(*what).fetchall()
        happens, self._happens = self._happens, None
        if happens is not None:
            happens()
        return Rows(rows)


class Rows(list[Any]):
    def fetchone(self) -> Any:
        return self[0]


async def test_an_end_between_two_looks_is_not_missed(tmp_path: Path) -> None:
    async with SQLiteBackend(tmp_path / "tasks.db", synchronous="NORMAL") as backend:
        family = Family(backend)
        group = await family.group(await family.parent())
        await backend.insert_children(group, [child("a")])

        def ends() -> None:
            with closing(sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)) as other:
                other.execute(
                    "UPDATE sitq_task SET state = 2, ended = 1.0, change = 1, value = x'c0' "
                    "WHERE group_id IS NOT NULL"
                )

        def look(connection: Any) -> Any:
            return groups.ended_children(Between(connection, ends), group, 0, 0)  # type: ignore[arg-type]

        assert await backend._read(look) is not None

"""A turn does in one statement what a transaction does in many: the same rows, the same answers."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sitq.backends.base import Wanted
from sitq.backends.commit import Operation
from sitq.backends.sqlite import recovery, turn, verbs
from sitq.backends.sqlite.connect import Database
from sitq.backends.sqlite.inserting import insert
from sitq.backends.sqlite.settling import Settled
from sitq.backends.sqlite.turn import Reserve, Settle, Turns
from sitq.errors import StoreUnavailable
from sitq.model import Change, NewTask, Reservation, State, WorkerRecord

NOW = 1_700_000_000.123456
RECORD = WorkerRecord("here", 1, None, 10, 15.0)
QUEUES = ("default", "other", "third")
BODIES = (b"", b"\xc0", b"x" * 1024, b"y" * 1025)
DAMAGE = (
    "name = x'00'",
    "name = CAST(x'ff' AS TEXT)",
    "queue = 'no name!'",
    "run_at = 'soon'",
    "run_at = -9e999",
    "deadline = 'late'",
    "timeout = -1.0",
    "retry = 'text'",
    "retry = zeroblob(65537)",
    "arguments = 'text'",
    "arguments = NULL",
    "enqueued = '5_0'",
    "unknown_since = 'then'",
    "fence = 'none'",
    "fence = 4611686018427387905",
    "priority = 1.5",
    "priority = 1000",
    "attempts = -1",
    "deadline = 9e99",
    "enqueued = -1.0",
    "unknown_since = 9e99",
    "epoch = 1.5",
    "id = zeroblob(16)",
    "value = x'c0'",
    "error = 'text'",
)
PLAIN: dict[str, Any] = {
    "queue": "default",
    "priority": 0,
    "run_at": NOW,
    "timeout": None,
    "deadline": None,
    "retry": None,
    "arguments": b"\x92\x90\x80",
}


def rarely(values: Sequence[Any]) -> st.SearchStrategy[Any]:
    """The first value mostly: what is not plain leaves nothing to a turn."""
    return st.sampled_from((*values[:1] * 8, *values))


drafts = st.builds(
    dict[str, Any],
    queue=rarely(QUEUES),
    priority=rarely((0, 1, 100)),
    run_at=st.sampled_from((NOW - 2, NOW - 1.000001, NOW, NOW + 1)),
    timeout=st.sampled_from((None, 1.1)),
    deadline=rarely((None, NOW, NOW + 0.1)),
    retry=st.sampled_from((None, b"", b"\x80")),
    arguments=rarely(BODIES),
)
changes = st.lists(
    st.tuples(rarely(BODIES), rarely((0, 1))),  # value, how stale
    max_size=4,
)
wishes = st.builds(
    Wanted,
    st.integers(1, 6),
    rarely((None, ("default",), ("default", "other"), ("none",))),
    rarely(((), ("sum",))),
    st.booleans(),
    largest=st.sampled_from((1 << 20, 1024)),
)


class Store:
    """A database in memory with one worker, that holds the first tasks."""

    def __init__(self, drafts: Sequence[dict[str, Any]], held: int, spoil: Sequence[str]) -> None:
        self.database = Database(":memory:", "NORMAL", 1.0)
        self.connection = self.database.create()
        self.worker, self.other = (
            recovery.hire(self.connection, RECORD, NOW, 0.0) for _ in range(2)
        )
        names = ("work", "sum")
        tasks = [
            NewTask(
                id=bytes([number]) * 16, name=names[number % 2], key=None, enqueued=NOW, **draft
            )
            for number, draft in enumerate(drafts, 1)
        ]
        with self.database.transaction(self.connection):
            insert(self.connection, tasks)
            everything = Wanted(held, None)
            self.held: list[Reservation] = []
            if held:
                self.held, _ = verbs.reserve(self.connection, self.worker, everything, NOW)
        pending = self.connection.execute("SELECT seq FROM sitq_task WHERE state = 0 LIMIT 3")
        for (seq,), change in zip(pending.fetchall(), spoil, strict=False):
            self.connection.execute("PRAGMA ignore_check_constraints = ON")
            self.connection.execute(
                f"UPDATE OR IGNORE sitq_task SET {change} WHERE seq = ?", (seq,)
            )
            self.connection.execute("PRAGMA ignore_check_constraints = OFF")

    def batch(
        self, ends: Sequence[tuple[bytes, int]], wish: Wanted | None, *, foreign: bool = False
    ) -> list[Any]:
        made = [
            Change(task.seq, task.fence - stale, State.SUCCEEDED, task.run_at, 0, 0, 0, value)
            for task, (value, stale) in zip(self.held, ends, strict=False)
        ]
        batch: list[Any] = [Settle(self.worker, made, NOW)]
        if wish is not None:
            batch.append(Reserve(self.other if foreign else self.worker, wish, NOW))
        return batch

    def rows(self, table: str) -> list[Any]:
        self.connection.text_factory = bytes
        order = "name" if table == "sitq_meta" else "seq"
        return self.connection.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()


def by_turn(store: Store, batch: Sequence[Any]) -> list[Any] | None:
    operations: list[Operation[sqlite3.Connection, Any]] = [Operation(one) for one in batch]
    if not Turns(store.database).take(store.connection, operations):
        return None
    assert [operation.error for operation in operations] == [None] * len(operations)
    return [operation.result for operation in operations]


def by_transaction(store: Store, batch: Sequence[Any]) -> list[Any]:
    with store.database.transaction(store.connection):
        return [one(store.connection) for one in batch]


@settings(max_examples=200)
@given(
    drafts=st.lists(drafts, min_size=4, max_size=12),
    held=st.integers(0, 4),
    spoil=st.just([]) | st.lists(st.sampled_from(DAMAGE), max_size=2),
    ends=changes,
    wish=rarely((1, 0)).flatmap(lambda asks: wishes if asks else st.none()),
    crashed=rarely((False, True)),
    foreign=rarely((False, True)),
)
def test_a_turn_is_like_a_transaction(
    drafts: list[dict[str, Any]],
    held: int,
    spoil: list[str],
    ends: list[tuple[bytes, int]],
    wish: Wanted | None,
    crashed: bool,
    foreign: bool,
) -> None:
    one, other = (Store(drafts, held, spoil) for _ in range(2))
    for store in (one, other):
        if crashed:
            store.connection.execute("UPDATE sitq_task SET crashes = 1 WHERE seq = 5 AND state = 0")
    results = by_turn(one, one.batch(ends, wish, foreign=foreign))
    if results is None:
        results = by_transaction(one, one.batch(ends, wish, foreign=foreign))
    expected = by_transaction(other, other.batch(ends, wish, foreign=foreign))
    assert results[0] == expected[0]
    for got, usual in zip(results[1:], expected[1:], strict=True):
        if not spoil:
            assert got == usual
        # Where a row is damaged a turn looks for another one at once.
        assert {*usual.tasks} <= {*got.tasks}
        assert {change.seq for change in usual.damaged} <= {change.seq for change in got.damaged}
    if not spoil:
        for table in ("sitq_task", "sitq_big"):
            assert one.rows(table) == other.rows(table)
    assert one.rows("sitq_meta") >= other.rows("sitq_meta")  # a stale end is numbered twice
    one.connection.close()
    other.connection.close()


def test_the_usual_case_is_one_turn() -> None:
    store = Store([PLAIN] * 10, 4, [])
    results = by_turn(store, store.batch([(b"\xc0", 0)] * 4, Wanted(4, None)))
    assert results is not None
    settled, reserved = results
    assert settled.seqs == {1, 2, 3, 4}
    assert [(task.seq, task.fence) for task in reserved.tasks] == [(5, 1), (6, 1), (7, 1), (8, 1)]
    store.connection.close()


def test_an_answer_from_before_the_turn_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store([PLAIN] * 10, 4, [])
    before = store.rows("sitq_task")
    monkeypatch.setattr(turn, "_TURN", turn._TURN.replace("SELECT settled", "SELECT NULL"))
    turns = Turns(store.database)
    for _ in range(2):
        operations = [Operation(one) for one in store.batch([(b"\xc0", 0)] * 4, Wanted(4, None))]
        assert not turns.take(store.connection, operations)
    assert store.rows("sitq_task") == before
    store.connection.close()


def test_a_first_turn_that_meets_a_lock_can_be_taken_later(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "tasks.db"), "NORMAL", 0.01)
    with closing(database.create()) as connection:
        turns = Turns(database)
        operations: list[Operation[sqlite3.Connection, Any]] = [Operation(Settle(1, [], NOW))]
        with closing(database.connect()) as stranger, pytest.raises(StoreUnavailable):
            stranger.execute("BEGIN IMMEDIATE")
            turns.take(connection, operations)
        assert turns.take(connection, operations)
        assert operations[0].result == Settled(set())


@pytest.mark.parametrize("harm", ["DELETE FROM sitq_worker", "UPDATE sitq_task SET fence = 9"])
def test_nothing_for_who_has_lost_it(harm: str) -> None:
    store = Store([PLAIN] * 4, 2, [])
    store.connection.execute(harm)
    results = by_turn(store, store.batch([(b"\xc0", 0)] * 2, Wanted(4, None)))
    assert results is not None
    settled, reserved = results
    assert settled.seqs == (set() if "fence" in harm else {1, 2})
    assert len(reserved.tasks) == (2 if "fence" in harm else 0)
    store.connection.close()

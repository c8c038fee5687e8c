"""What runs tell of their progress: kept, read, guarded and deleted by every backend."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from sitq import SQLiteBackend
from sitq.backends.base import Filter
from sitq.model import Note, OutcomeKind, ProgressRow, State

from ..postgres import backend_at, tables
from .test_conformance import decide, take

pytestmark = pytest.mark.anyio

NOTES = ["", "half way", 'quotes " \\ {} NULL', "\u20ac" * 500]


@pytest.fixture
async def worker(backend, record):
    return await backend.hire(record)


@pytest.fixture
async def run(backend, new, worker):
    await backend.insert([new()])
    [held] = await take(backend, worker)
    return held


def told(run, done=1.0, total=4.0, note="some", at=5.0):
    return Note(run.seq, run.fence, done, total, note, at)


async def progress_of(backend, run):
    row = await backend.get(run.id)
    return row.progress


async def test_it_is_shown_wherever_the_task_is(backend, worker, run):
    assert await progress_of(backend, run) is None
    await backend.progress(worker, [told(run)])
    expected = ProgressRow(1.0, 4.0, "some", 5.0)
    assert await progress_of(backend, run) == expected
    [row] = await backend.find(Filter(), after=0, limit=9)
    assert row.progress == expected
    [(_, row)] = await backend.tree(run.id, 9)
    assert row.progress == expected
    await backend.settle(worker, [decide(backend, run, value=b"v")])
    row = await backend.ended(run.id)
    assert (row.state, row.value, row.progress) == (State.SUCCEEDED, b"v", expected)


async def test_the_newest_replaces_what_was_told_before(backend, worker, run):
    await backend.progress(worker, [told(run)])
    await backend.progress(worker, [told(run, 1e308, None, "", 1_700_000_000.123457)])
    assert await progress_of(backend, run) == ProgressRow(1e308, None, "", 1_700_000_000.123457)


async def test_notes_come_back_as_they_went_in(backend, new, worker):
    await backend.insert([new() for _ in NOTES])
    runs = await take(backend, worker)
    await backend.progress(
        worker, [told(run, note=note) for run, note in zip(runs, NOTES, strict=True)]
    )
    assert [(await progress_of(backend, run)).note for run in runs] == NOTES


async def test_nothing_to_tell(backend, worker):
    await backend.progress(worker, [])


async def test_who_does_not_run_the_task_changes_nothing(backend, new, record, worker, run):
    other = await backend.hire(record)
    await backend.progress(other, [told(run)])
    await backend.progress(worker, [told(run)._replace(fence=run.fence + 1)])
    await backend.progress(worker, [told(run)._replace(seq=run.seq + 1)])
    assert await progress_of(backend, run) is None
    assert await tables(backend, "SELECT * FROM sitq_progress") == []


async def test_a_run_that_is_over_changes_nothing(backend, worker, run):
    await backend.settle(worker, [decide(backend, run, OutcomeKind.RELEASED)])
    await backend.progress(worker, [told(run)])
    assert await progress_of(backend, run) is None
    [again] = await take(backend, worker)
    await backend.progress(worker, [told(run, 1.0), told(again, 2.0)])
    assert (await progress_of(backend, run)).done == 2.0
    await backend.settle(worker, [decide(backend, again)])
    await backend.progress(worker, [told(again, 3.0)])
    assert (await progress_of(backend, run)).done == 2.0


async def test_it_stays_until_another_run_tells_anew(backend, worker, run):
    await backend.progress(worker, [told(run)])
    await backend.settle(worker, [decide(backend, run, OutcomeKind.RELEASED)])
    await backend.cancel(run.id)
    await backend.revive(run.id)
    [again] = await take(backend, worker)
    assert await progress_of(backend, run) == ProgressRow(1.0, 4.0, "some", 5.0)
    await backend.progress(worker, [told(again, 0.5)])
    assert (await progress_of(backend, run)).done == 0.5


async def test_it_is_deleted_with_its_task(backend, new, clock, worker, run):
    await backend.insert([new()])
    [other] = await take(backend, worker)
    await backend.progress(worker, [told(run), told(other)])
    await backend.settle(worker, [decide(backend, run)])
    pruned = await backend.prune(Filter(), ended_before=clock.time(), limit=9)
    assert pruned.deleted == 1
    assert await tables(backend, "SELECT seq FROM sitq_progress") == [(other.seq,)]


async def test_a_statement_that_comes_late_hides_nothing_newer(schema, new, record):
    async with backend_at(schema) as backend:
        worker = await backend.hire(record)
        await backend.insert([new()])
        [run] = await take(backend, worker)
        await backend.progress(worker, [told(run)])
        await tables(backend, "UPDATE sitq_progress SET fence = ?", run.fence + 1)
        await backend.progress(worker, [told(run, 2.0)])  # by what it saw, the task is its own
        assert (await progress_of(backend, run)).done == 1.0


@pytest.mark.parametrize(
    "sets",
    [
        *("done = 'much'", "done = x'00'", "done = -1", "done = 9e999"),
        *("total = 'more'", "total = 0", "total = -1", "total = 9e999"),
        *("note = x'61'", "note = hex(zeroblob(251))"),
        *("note = 'two' || char(10) || 'lines'", "note = zeroblob(5000000)"),
        *("at = 'now'", "at = -1", "at = 1e300"),
    ],
)
async def test_what_nobody_can_have_told_is_not_shown(path, clock, new, record, sets):
    async with SQLiteBackend(path, clock=clock) as backend:
        worker = await backend.hire(record)
        await backend.insert([new()])
        [run] = await take(backend, worker)
        await backend.progress(worker, [told(run)])
        with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
            stranger.execute("PRAGMA ignore_check_constraints = ON")
            stranger.execute(f"UPDATE sitq_progress SET {sets}")
        row = await backend.get(run.id)
        assert (row.progress, row.error, row.state) == (None, None, State.RUNNING)
        assert await backend.find(Filter(), after=0, limit=9) == [row]
        await backend.progress(worker, [told(run)])
        assert await progress_of(backend, run) is not None

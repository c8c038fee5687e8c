"""Many callers at once of whom some are cancelled, and callers who wait for a locked store."""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Generator
from contextlib import AsyncExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from random import Random

import anyio
import pytest

from sitq import SQLiteBackend, State, TaskQueue
from sitq.backends.sqlite.connect import Database

from ..worker import functions as f
from .checkpoints import Attempt, both_natures, until
from .stage import Stage, Template, held, is_posted, make_template
from .verbs import WRITES

pytestmark = pytest.mark.anyio

CALLERS = 60


@pytest.fixture(scope="module")
def template(quick_folder: Path) -> Template:
    return anyio.run(make_template, quick_folder / "tasks.db")


@contextmanager
def locked(stage: Stage) -> Generator[None]:
    """A stranger holds the write lock of the database inside the block."""
    stage.stranger.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        stage.stranger.execute("ROLLBACK")


@both_natures
@pytest.mark.parametrize("verb", WRITES)
async def test_cancelled_while_the_store_is_locked(
    template: Template, quick_folder: Path, verb: str, kind: str
) -> None:
    async with template.stage(quick_folder) as stage:
        before = stage.snapshot()
        attempt = Attempt(kind, partial(WRITES[verb], stage))
        async with anyio.create_task_group() as group:
            with locked(stage):
                group.start_soon(attempt.run)
                await until(partial(is_posted, stage.opened))
                attempt.cancel()
                await until(lambda: attempt.ended)
        assert attempt.cancelled
        await stage.is_whole()
        assert stage.snapshot() != before
        assert {task.seq for task in stage.delivered} == stage.running()
        await stage.is_usable()


def crowd(stage: Stage, kind: str) -> list[Attempt]:
    """Callers of whom each enqueues three tasks in a queue of its own."""
    calls = [f.echo.using(queue=f"caller-{n}") for n in range(CALLERS)]
    return [
        Attempt(kind, partial(stage.queue.enqueue_many, [one.call(n) for n in range(3)]))
        for one in calls
    ]


def stored(stage: Stage, caller: int) -> int:
    query = "SELECT count(*) FROM sitq_task WHERE queue = ?"
    return stage.stranger.execute(query, (f"caller-{caller}",)).fetchone()[0]


@both_natures
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gathering", [True, False])
async def test_half_of_a_batch_is_cancelled(
    template: Template, quick_folder: Path, seed: int, gathering: bool, kind: str
) -> None:
    """While it gathers nothing of them is stored; once it is on its way all is."""
    async with template.stage(quick_folder) as stage, anyio.create_task_group() as group:
        attempts = crowd(stage, kind)
        leaving = Random(seed).sample(attempts, CALLERS // 2)
        async with AsyncExitStack() as gate:
            if gathering:
                await gate.enter_async_context(stage.committing())
            else:
                gate.enter_context(held(stage.opened.writer))
            for each in attempts:
                group.start_soon(each.run)
            waiting = CALLERS if gathering else 0
            await until(lambda: all(each.passed for each in attempts))
            await until(lambda: len(stage.opened.commit._mailbox) == waiting)
            for each in leaving:
                each.cancel()
            await until(lambda: all(each.ended for each in leaving))
        await until(lambda: all(each.ended for each in attempts))
        await stage.is_whole()
        for number, each in enumerate(attempts):
            assert each.cancelled == (each in leaving)
            assert stored(stage, number) == (0 if each.cancelled and gathering else 3)
            assert each.cancelled or len(each.answer) == 3
        await stage.is_usable()


async def test_reservations_of_cancelled_callers_are_delivered(
    template: Template, quick_folder: Path
) -> None:
    async with template.stage(quick_folder) as stage, anyio.create_task_group() as group:
        await stage.queue.enqueue_many([f.echo.call(n) for n in range(50)])
        stage.opened.commit._alone = False  # else the first one would leave before the others come
        attempts = [Attempt("scope", partial(WRITES["reserve"], stage)) for _ in range(8)]
        with held(stage.opened.writer):
            for each in attempts:
                group.start_soon(each.run)
            await until(lambda: all(each.passed for each in attempts))
            for each in attempts[::2]:
                each.cancel()
        await until(lambda: all(each.ended for each in attempts))
        await stage.is_whole()
        assert len(stage.delivered) == 51  # one was there before
        assert {task.seq for task in stage.delivered} == stage.running()


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once somebody asks for the lock of a database."""
    event = threading.Event()
    begin = Database._begin

    def note(self: Database, connection: sqlite3.Connection) -> None:
        event.set()
        begin(self, connection)

    monkeypatch.setattr(Database, "_begin", note)
    return event


@both_natures
async def test_opening_a_locked_store_is_cancelled(
    tmp_path: Path, kind: str, begun: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tables are to be made. It is not waited for until the lock is free."""
    monkeypatch.setattr("sitq.backends.sqlite.driver.CLOSE_LIMIT", math.inf)
    backend = SQLiteBackend(tmp_path / "tasks.db", synchronous="NORMAL")
    attempt = Attempt(kind, backend.open)
    with closing(sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)) as stranger:
        stranger.execute("PRAGMA journal_mode = WAL")
        async with anyio.create_task_group() as group:
            stranger.execute("BEGIN IMMEDIATE")
            group.start_soon(attempt.run)
            await until(begun.is_set)
            attempt.cancel()
            await until(lambda: attempt.ended)
            stranger.execute("ROLLBACK")
    assert attempt.cancelled
    async with backend:
        assert (await backend.counts())[State.PENDING] == 0


@both_natures
async def test_closing_a_locked_store_is_cancelled(
    template: Template, quick_folder: Path, kind: str
) -> None:
    """What was submitted is stored before it is closed, whoever does not wait for that."""
    async with template.stage(quick_folder) as stage:
        backend = SQLiteBackend(stage.backend._database.path, synchronous="NORMAL")
        async with anyio.create_task_group() as group:
            await backend.open()
            storing = Attempt("scope", partial(TaskQueue(backend).enqueue, f.echo, 1))
            closing = Attempt(kind, backend.close, at=1)
            with locked(stage):
                group.start_soon(storing.run)
                await until(lambda: storing.passed == 1)
                group.start_soon(closing.run)
                await until(lambda: closing.hit)
        assert storing.error is None
        assert (await stage.backend.counts())[State.PENDING] == 2

"""Opening and closing, cancelled at each of their checkpoints, alone and beside other callers."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Coroutine
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

from sitq import SQLiteBackend, State, TaskQueue
from sitq.backends.sqlite.connect import Database
from sitq.errors import NotOpen

from ..worker import functions as f
from .checkpoints import (
    PATIENCE,
    Attempt,
    both_natures,
    every_way,
    most_ways,
    nothing_leaked,
    until,
)
from .stage import held, is_posted

pytestmark = pytest.mark.anyio

Use = Callable[[SQLiteBackend], Coroutine[Any, Any, Any]]
everywhere = pytest.mark.parametrize("name", ["file", ":memory:"])


def make(name: str, folder: Path) -> SQLiteBackend:
    path = name if name == ":memory:" else folder / f"{uuid4()}.db"
    return SQLiteBackend(path, synchronous="NORMAL")


async def enter_backend(backend: SQLiteBackend) -> None:
    async with backend:
        await TaskQueue(backend).enqueue(f.echo, 1)


async def enter_queue(backend: SQLiteBackend) -> None:
    async with TaskQueue(backend) as queue:
        await queue.enqueue(f.echo, 1)


async def works(backend: SQLiteBackend) -> None:
    """It can be opened, used and closed, and then it is closed."""
    async with backend:
        await TaskQueue(backend).enqueue(f.echo, 1)
    with pytest.raises(NotOpen):
        await backend.counts()


@every_way
@everywhere
async def test_open(name: str, quick_folder: Path, kind: str) -> None:
    for at in count():
        backend = make(name, quick_folder)
        async with nothing_leaked():
            attempt = await Attempt(kind, backend.open, at).run()
            if not attempt.cancelled:
                await backend.counts()
                await backend.close()
        async with nothing_leaked():
            await works(backend)
        if not attempt.hit:
            break
    assert at > 1


@most_ways
@everywhere
async def test_first_use(name: str, quick_folder: Path, kind: str) -> None:
    for at in count():
        backend = make(name, quick_folder)
        async with nothing_leaked():
            attempt = await Attempt(kind, backend.counts, at).run()
            if backend._opened is not None:
                await backend.close()
        async with nothing_leaked():
            await works(backend)
        if not attempt.hit:
            break
    assert at > 1


@most_ways
@everywhere
@pytest.mark.parametrize("use", [enter_backend, enter_queue])
async def test_opened_used_and_closed(name: str, quick_folder: Path, kind: str, use: Use) -> None:
    for at in count():
        backend = make(name, quick_folder)
        async with nothing_leaked():
            attempt = await Attempt(kind, lambda b=backend: use(b), at).run()
        async with nothing_leaked():
            await works(backend)
        if not attempt.hit:
            break
    assert at > 1


@every_way
@everywhere
async def test_close(name: str, quick_folder: Path, kind: str) -> None:
    for at in count():
        async with nothing_leaked():
            backend = make(name, quick_folder)
            await backend.open()
            attempt = await close_beside_others(backend, kind, at)
        async with nothing_leaked():
            await works(backend)
        if not attempt.hit:
            break
    assert at > 1


@most_ways
@everywhere
@pytest.mark.parametrize("who", [0, 1, 2])
async def test_one_of_three_openers(name: str, quick_folder: Path, kind: str, who: int) -> None:
    for at in count():
        backend = make(name, quick_folder)
        async with nothing_leaked():
            attempts = [
                Attempt(kind if each == who else "scope", backend.open, at if each == who else None)
                for each in range(3)
            ]
            async with anyio.create_task_group() as group:
                for each in attempts:
                    group.start_soon(each.run)
            assert not [each for each in attempts if each.error is not None]
            for each in attempts:
                if not each.cancelled:
                    assert (await backend.counts())[State.RUNNING] == 0
                    await backend.close()
            with pytest.raises(NotOpen):
                await backend.counts()
        if not attempts[who].hit:
            break
    assert at > 1


@both_natures
async def test_a_cancelled_opening_ends_before_the_next_begins(
    quick_folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it remembers of the file, and the log that it takes away, are not those of the next."""
    gate, order = threading.Event(), list[str]()
    create = Database.create

    def slowly(database: Database) -> sqlite3.Connection:
        order.append("begins")
        gate.wait(PATIENCE)
        connection = create(database)
        order.append("ends")
        return connection

    monkeypatch.setattr(Database, "create", slowly)
    backend = make("file", quick_folder)
    leaving, staying = Attempt(kind, backend.open), Attempt("scope", backend.open)
    async with nothing_leaked():
        async with anyio.create_task_group() as group:
            group.start_soon(leaving.run)
            await until(lambda: order == ["begins"])
            group.start_soon(staying.run)
            leaving.cancel()
            await anyio.wait_all_tasks_blocked()
            gate.set()
        assert leaving.cancelled
        assert staying.error is None
        assert order == ["begins", "ends"] * 2
        await backend.close()


@everywhere
async def test_closed_while_it_opens(name: str, quick_folder: Path) -> None:
    for at in count(1):
        backend = make(name, quick_folder)
        closing = Attempt("scope", backend.close)
        async with nothing_leaked():
            async with anyio.create_task_group() as group:
                using = Attempt("scope", TaskQueue(backend).counts, at)
                using.act = lambda: group.start_soon(closing.run)  # noqa: B023
                await using.run()
            assert using.error is None or isinstance(using.error, NotOpen)
            if not using.hit:
                await backend.close()
        if not using.hit:
            break
    assert at > 1


async def close_beside_others(backend: SQLiteBackend, kind: str, at: int) -> Attempt:
    """Somebody waits for a result, and two wait to be stored, when it is closed."""
    queue = TaskQueue(backend)
    waiting = Attempt("scope", (await queue.enqueue(f.echo, 1)).result)
    storing = [Attempt("scope", lambda: queue.enqueue(f.echo, 2)) for _ in range(2)]
    attempt = Attempt(kind, backend.close, at)
    opened = backend._opened
    assert opened is not None
    async with anyio.create_task_group() as group:
        group.start_soon(waiting.run)
        await until(lambda: waiting.passed == 2)
        with held(opened.writer):
            group.start_soon(storing[0].run)
            await until(lambda: is_posted(opened))
            group.start_soon(storing[1].run)
            await until(lambda: storing[1].passed == 1)
            group.start_soon(attempt.run)
            await until(lambda: attempt.ended or attempt.passed > 0)
        await until(lambda: attempt.ended)
        if at == 0 and attempt.cancelled:
            await backend.close()
    assert isinstance(waiting.error, NotOpen)
    assert not [each for each in storing if each.error is not None]
    return attempt

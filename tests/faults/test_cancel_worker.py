"""A worker with work under way, cancelled at every step that any of its tasks makes.

The normal run takes every twentieth step; ``SITQ_LONG=1`` makes it take each of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest

from sitq import SQLiteBackend, State, TaskHandle, TaskQueue, Worker
from sitq.backends.sqlite.verbs import STATES

from ..worker import functions as f
from .checkpoints import (
    LONG,
    Attempt,
    Steps,
    both_natures,
    every_way,
    most_ways,
    nothing_leaked,
    until,
)

pytestmark = pytest.mark.anyio

STRIDE = 1 if LONG else 20
Row = tuple[State, int, int, int]


class Resources:
    """Of a worker, with a task of their own. They note what there was of it when they closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.open = 0
        self.leases: list[object] = []

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            await anyio.lowlevel.checkpoint()
            self.open += 1
            try:
                yield
                await anyio.lowlevel.checkpoint()
            finally:
                self.open -= 1
                with closing(sqlite3.connect(self._path)) as connection:
                    self.leases += connection.execute("SELECT id FROM sitq_worker")
                group.cancel_scope.cancel()


@dataclass
class Shop:
    """A store with four tasks and a worker for three of them; two of the tasks end soon."""

    path: Path
    backend: SQLiteBackend
    worker: Worker
    resources: Resources
    short: list[TaskHandle[Any]]

    @classmethod
    async def make(cls, folder: Path) -> Shop:
        path = folder / f"{uuid4()}.db"
        backend = SQLiteBackend(path, synchronous="NORMAL")
        async with TaskQueue(backend) as queue:
            short = await queue.enqueue_many([f.echo.call(1), f.add.call(1)])
            await queue.enqueue_many([f.sleep.call(300), f.sleep.call(300)])
        resources = Resources(path)
        worker = Worker(
            backend,
            registry=f.registry,
            grace=0,
            max_concurrency=3,
            lifespan=resources.lifespan,
        )
        return cls(path, backend, worker, resources, short)

    async def results(self) -> list[Any]:
        return [await handle.result() for handle in self.short]

    def is_running(self) -> bool:
        """Whether its worker runs the tasks that take long."""
        return f.noted == ["started", "started"]

    def rows(self) -> list[Row]:
        """State, fence, attempts and crashes of each task. Nobody holds any."""
        query = "SELECT state, fence, attempts, crashes FROM sitq_task ORDER BY seq"
        with closing(sqlite3.connect(self.path)) as connection:
            assert connection.execute("SELECT id FROM sitq_worker").fetchall() == []
            return [(STATES[row[0]], *row[1:]) for row in connection.execute(query)]

    def check(self) -> None:
        """Each task was run once or is given back, uncounted; the worker has left, and then its
        resources were closed.
        """
        assert (self.resources.open, self.resources.leases) == (0, [])
        short, long = self.rows()[:2], self.rows()[2:]
        given_back = {(State.PENDING, 0, 0, 0), (State.PENDING, 1, 0, 0)}
        assert set(long) <= given_back
        assert set(short) <= given_back | {(State.SUCCEEDED, 1, 0, 0)}

    async def still_works(self) -> None:
        """Another worker brings home what the first has given back."""
        async with Worker(self.backend, registry=f.registry, grace=0):
            assert await self.results() == [1, 2]
        assert {row[0] for row in self.rows()[:2]} == {State.SUCCEEDED}


async def hosted(shop: Shop) -> None:
    async with shop.worker:
        await shop.results()


async def structured(shop: Shop) -> None:
    async with anyio.create_task_group() as group:
        await group.start(shop.worker.run)
        await shop.results()
        await shop.worker.stop()


async def background(shop: Shop) -> None:
    await shop.worker.start()
    try:
        await shop.results()
    finally:
        with anyio.CancelScope(shield=True):
            await shop.worker.stop()


Use = Callable[[Shop], Coroutine[Any, Any, None]]


@pytest.fixture(autouse=True)
def _clean() -> None:
    f.noted.clear()


@both_natures
@pytest.mark.parametrize(("use", "first"), [(hosted, 1), (structured, 7), (background, 14)])
async def test_cancelled_at_every_step(quick_folder: Path, use: Use, first: int, kind: str) -> None:
    for at in count(1 if LONG else first, STRIDE):
        async with nothing_leaked():
            shop = await Shop.make(quick_folder)
            attempt = Attempt(kind, partial(use, shop))
            with Steps(at, lambda: attempt.cancel()).counted() as steps:  # noqa: B023
                await attempt.run()
        assert attempt.error is None
        shop.check()
        await shop.still_works()
        if not steps.hit:
            break
    assert at > 30


@every_way
async def test_run_is_cancelled(quick_folder: Path, kind: str) -> None:
    for at in count():
        f.noted.clear()
        async with nothing_leaked(), anyio.create_task_group() as group:
            shop = await Shop.make(quick_folder)
            attempt = Attempt(kind, shop.worker.run, at)
            group.start_soon(attempt.run)
            await until(lambda: attempt.hit or shop.is_running())  # noqa: B023
            if not attempt.hit:
                attempt.cancel()
            await until(lambda: attempt.ended)  # noqa: B023
            assert attempt.cancelled
            assert attempt.error is None
            shop.check()
        if not attempt.hit:
            break
    assert at > 1


@most_ways
async def test_start_is_cancelled(quick_folder: Path, kind: str) -> None:
    for at in count():
        async with nothing_leaked():
            shop = await Shop.make(quick_folder)
            attempt = await Attempt(kind, shop.worker.start, at).run()
            if not attempt.cancelled:
                await shop.results()
                await shop.worker.stop()
        shop.check()
        if not attempt.hit:
            break
    assert at > 1


@most_ways
async def test_stop_is_cancelled(quick_folder: Path, kind: str) -> None:
    for at in count():
        f.noted.clear()
        async with nothing_leaked():
            shop = await Shop.make(quick_folder)
            await shop.worker.start()
            await until(shop.is_running)
            attempt = await Attempt(kind, shop.worker.stop, at).run()
            await shop.worker.stop()
            shop.check()
        if not attempt.hit:
            break
    assert at > 1


@both_natures
async def test_cancelled_while_the_store_is_locked(quick_folder: Path, kind: str) -> None:
    """It gives back what it holds as soon as the stranger lets go of the lock."""
    async with nothing_leaked(), anyio.create_task_group() as group:
        shop = await Shop.make(quick_folder)
        attempt = Attempt(kind, shop.worker.run)
        group.start_soon(attempt.run)
        await until(shop.is_running)
        with closing(sqlite3.connect(shop.path, isolation_level=None)) as stranger:
            stranger.execute("BEGIN IMMEDIATE")
            attempt.cancel()
            await anyio.wait_all_tasks_blocked()
            assert not attempt.ended
            stranger.execute("ROLLBACK")
        await until(lambda: attempt.ended)
        assert attempt.cancelled
        shop.check()


# asyncio can cancel a task before its first step; anyio does not close the coroutine of that one.
@pytest.mark.filterwarnings("ignore:coroutine 'run_one' was never awaited:RuntimeWarning")
def test_the_event_loop_ends_under_a_worker(quick_folder: Path, anyio_backend: str) -> None:
    """It gives back what it holds, though asyncio cancels every task natively then."""
    shops: list[Shop] = []

    async def leave(at: int) -> bool:
        f.noted.clear()
        shops.append(await Shop.make(quick_folder))
        reached = anyio.Event()
        with Steps(at, reached.set).counted() as steps:
            await shops[-1].worker.start()
            while not (reached.is_set() or shops[-1].is_running()):
                await anyio.lowlevel.checkpoint()
        return steps.hit

    for at in count(1, STRIDE):
        hit = anyio.run(leave, at, backend=anyio_backend)
        shops[-1].check()
        if not hit:
            break
    assert at > 1

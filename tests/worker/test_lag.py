"""How long the event loop of a worker takes to answer: for others to see while it is blocked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from sitq import Registry, SQLiteBackend, TaskQueue, Worker
from sitq.backends.base import Backend
from sitq.lease import Lag

from ..postgres import backend_at, fresh_schema

pytestmark = pytest.mark.anyio

LEASE = 0.6
registry = Registry()
released = threading.Event()
Store = Callable[[], Backend]


@registry.task(name="blocks")
async def blocks() -> bool:
    """Blocks the event loop until somebody else lets it go on."""
    return released.wait(30)


@pytest.fixture(params=["file", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Makes backends of one store."""
    released.clear()
    if request.param == "file":
        yield lambda: SQLiteBackend(tmp_path / "tasks.db")
        return
    with fresh_schema() as schema:
        yield lambda: backend_at(schema)


@contextmanager
def observer(look: Callable[[], None]) -> Iterator[None]:
    """Another thread, which looks on while this one is blocked. In the end it is released."""

    def run() -> None:
        try:
            look()
        finally:
            released.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        released.set()
        thread.join()


async def lag_above(store: Store, least: float) -> float:
    """The lag of the worker, once it is above that."""
    async with TaskQueue(store()) as queue:
        with anyio.fail_after(30):
            while True:
                for worker in await queue.workers():
                    if worker.lag is not None and worker.lag > least:
                        return worker.lag
                await anyio.sleep(0.01)


async def test_it_grows_while_the_loop_is_blocked(store: Store) -> None:
    seen: list[float] = []

    def look() -> None:
        seen.append(anyio.run(lag_above, store, 0.0))
        seen.append(anyio.run(lag_above, store, LEASE / 3))
        seen.append(anyio.run(lag_above, store, seen[-1]))

    backend = store()
    async with TaskQueue(backend) as queue, Worker(backend, registry=registry, lease=LEASE):
        with observer(look):
            assert await (await queue.enqueue(blocks)).result(60)
        assert len(seen) == 3
        with anyio.fail_after(30):
            while max(one.lag or 0.0 for one in await queue.workers()) >= seen[-1]:
                await anyio.sleep(0.01)


async def test_there_is_none_in_memory() -> None:
    backend = SQLiteBackend(":memory:")
    async with TaskQueue(backend) as queue, Worker(backend, registry=registry, lease=LEASE):
        assert [one.lag for one in await queue.workers()] == [None]


async def test_one_question_at_a_time() -> None:
    asked: list[Callable[[], None]] = []
    lag = Lag(asked.append)
    assert lag.seconds() == 0.0
    lag.ask()
    lag.ask()
    [answer] = asked
    first, second = lag.seconds(), lag.seconds()
    assert 0.0 <= first <= second
    answer()
    assert lag.seconds() >= second
    assert lag.seconds() == lag.seconds()
    lag.ask()
    assert len(asked) == 2

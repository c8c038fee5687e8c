"""The ways in which guides tell users to run workers: each kind of program, on our package."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from sitq import Registry, SQLiteBackend, State, TaskHandle, TaskQueue, Worker
from sitq.serialization import Serializer

PATIENCE = 10.0
MOMENT = 0.05
registry = Registry()


@registry.task
async def triple(n: int) -> int:
    return 3 * n


running: list[None] = []
peaks: list[int] = []


@registry.task
async def busy() -> None:
    running.append(None)
    peaks.append(len(running))
    await anyio.sleep(MOMENT)
    running.pop()


class Armoured(Serializer):
    """JSON in base 85: unlike the default in every byte."""

    def dumps(self, obj: Any) -> bytes:
        return base64.b85encode(json.dumps(obj).encode())

    def loads(self, data: bytes) -> Any:
        return json.loads(base64.b85decode(data))


@pytest.fixture(params=["file", "memory"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SQLiteBackend]:
    backend = SQLiteBackend(":memory:" if request.param == "memory" else tmp_path / "guide.db")
    yield backend
    asyncio.run(backend.close())  # what the program left open


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[SQLiteBackend]:
    """A backend whose tasks outlive an event loop."""
    backend = SQLiteBackend(tmp_path / "guide.db")
    yield backend
    asyncio.run(backend.close())


def worker_of(backend: SQLiteBackend, **options: Any) -> Worker:
    return Worker(backend, registry=registry, **options)


async def polled(queue: TaskQueue, handle: TaskHandle[int]) -> int:
    """The value of a task, asked for again and again."""
    with anyio.fail_after(PATIENCE):
        while not (result := await queue.get_result(handle)):
            await anyio.sleep(0.01)
    assert result.state is State.SUCCEEDED
    return result.value


def test_asyncio_task_then_stop(stored: SQLiteBackend) -> None:
    worker = worker_of(stored)

    async def program() -> None:
        handle = await TaskQueue(stored).enqueue(triple, 1)
        starting = asyncio.create_task(worker.start())
        assert await handle.result(PATIENCE) == 3
        await worker.stop()
        assert starting.done()

    asyncio.run(program())
    asyncio.run(program())


def test_stop_soon_after_create_task(backend: SQLiteBackend) -> None:
    async def program() -> None:
        for pause in (0, 0.001, MOMENT):
            worker = worker_of(backend)
            starting = asyncio.create_task(worker.start())
            await asyncio.sleep(pause)
            await worker.stop()
            await asyncio.wait_for(starting, PATIENCE)

    asyncio.run(program())


def test_trio_nursery_then_stop(backend: SQLiteBackend) -> None:
    async def program() -> None:
        worker = worker_of(backend)
        handle = await TaskQueue(backend).enqueue(triple, 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.start)
            assert await handle.result(PATIENCE) == 6
            await worker.stop()

    trio.run(program)


def test_inside_an_open_backend(backend: SQLiteBackend) -> None:
    async def program() -> None:
        worker = worker_of(backend)
        async with backend:
            starting = asyncio.create_task(worker.start())
            handle = await TaskQueue(backend).enqueue(triple, 3)
            assert await handle.result(PATIENCE) == 9
            await worker.stop()
            await starting

    asyncio.run(program())


@pytest.mark.parametrize("run", ["asyncio", "trio"])
def test_inside_an_open_backend_awaited(backend: SQLiteBackend, run: str) -> None:
    async def program() -> None:
        worker = worker_of(backend)
        async with backend:
            await worker.start()
            handle = await TaskQueue(backend).enqueue(triple, 3)
            assert await handle.result(PATIENCE) == 9
            await worker.stop()

    anyio.run(program, backend=run)


def test_one_backend_through_many_runs(stored: SQLiteBackend) -> None:
    """Whatever the run before did: left the backend open, or entered and left it."""
    worker = worker_of(stored)

    async def left_open() -> int:
        handle = await TaskQueue(stored).enqueue(triple, 4)
        await worker.start()
        value = await handle.result(PATIENCE)
        await worker.stop()
        return value

    async def entered() -> int:
        async with stored:
            return await left_open()

    async def never_stopped() -> None:
        await worker_of(stored).start()

    for program in (left_open, entered, entered, left_open, never_stopped, left_open):
        assert asyncio.run(program()) in (12, None)
    assert trio.run(entered) == 12
    assert asyncio.run(left_open()) == 12


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_max_concurrency(backend: SQLiteBackend, limit: int) -> None:
    async def program() -> None:
        running.clear()
        peaks.clear()
        calls = [busy.call() for _ in range(limit + 2)]
        handles = await TaskQueue(backend).enqueue_many(calls)
        worker = worker_of(backend, max_concurrency=limit)
        starting = asyncio.create_task(worker.start())
        for handle in handles:
            await handle.result(PATIENCE)
        await worker.stop()
        await starting

    asyncio.run(program())
    assert len(peaks) == limit + 2
    assert max(peaks) == limit


@pytest.mark.parametrize("interval", [0.01, 0.5, 2.0])
def test_poll_interval(backend: SQLiteBackend, interval: float) -> None:
    async def program() -> None:
        worker = worker_of(backend, poll_interval=interval)
        await worker.start()
        handle = await TaskQueue(backend).enqueue(triple, 5)
        assert await handle.result(PATIENCE) == 15
        await worker.stop()

    asyncio.run(program())


@pytest.mark.parametrize("run", ["asyncio", "trio"])
def test_serializer_of_ones_own(backend: SQLiteBackend, run: str) -> None:
    async def program() -> None:
        queue = TaskQueue(backend, serializer=Armoured())
        worker = worker_of(backend, serializer=Armoured())
        await worker.start()
        assert await polled(queue, await queue.enqueue(triple, n=6)) == 18
        await worker.stop()

    anyio.run(program, backend=run)


def test_four_workers_gathered(backend: SQLiteBackend) -> None:
    async def program() -> None:
        team = [worker_of(backend, max_concurrency=2) for _ in range(4)]
        started = [asyncio.create_task(member.start()) for member in team]
        queue = TaskQueue(backend)
        handles = await queue.enqueue_many([triple.call(n) for n in range(20)])
        values = [await handle.result(PATIENCE) for handle in handles]
        for member in team:
            await member.stop()
        assert await asyncio.gather(*started, return_exceptions=True) == [None] * 4
        assert values == [3 * n for n in range(20)]

    asyncio.run(program())


def test_four_workers_in_a_nursery(backend: SQLiteBackend) -> None:
    async def program() -> None:
        team = [worker_of(backend, max_concurrency=2) for _ in range(4)]
        handles = await TaskQueue(backend).enqueue_many([triple.call(n) for n in range(20)])
        async with trio.open_nursery() as nursery:
            for member in team:
                nursery.start_soon(member.start)
            assert [await h.result(PATIENCE) for h in handles] == [3 * n for n in range(20)]
            for member in team:
                nursery.start_soon(member.stop)

    trio.run(program)


def test_one_task_polled_without_entering(backend: SQLiteBackend) -> None:
    async def program() -> int:
        queue = TaskQueue(backend=backend)
        handle = await queue.enqueue(triple, 7)
        worker = worker_of(backend)
        starting = asyncio.create_task(worker.start())
        value = await polled(queue, handle)
        await worker.stop()
        await starting
        return value

    assert asyncio.run(program()) == 21


@pytest.mark.parametrize("run", ["asyncio", "trio"])
def test_one_task_polled_on_either_loop(backend: SQLiteBackend, run: str) -> None:
    async def program() -> int:
        queue = TaskQueue(backend=backend)
        handle = await queue.enqueue(triple, 7)
        worker = worker_of(backend)
        async with anyio.create_task_group() as group:
            group.start_soon(worker.start)
            value = await polled(queue, handle)
            await worker.stop()
        return value

    assert anyio.run(program, backend=run) == 21


def test_stopped_in_finally(backend: SQLiteBackend) -> None:
    async def program() -> None:
        worker = worker_of(backend)
        handle = await TaskQueue(backend).enqueue(triple, 8)
        try:
            starting = asyncio.create_task(worker.start())
            assert await handle.result(PATIENCE) == 24
            raise LookupError
        finally:
            await worker.stop()
            assert starting.done()

    with pytest.raises(LookupError):
        asyncio.run(program())


def test_endless_until_cancelled(backend: SQLiteBackend) -> None:
    async def serve(worker: Worker) -> None:
        starting = asyncio.create_task(worker.start())
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        finally:
            await worker.stop()
            await starting

    async def program() -> None:
        serving = asyncio.create_task(serve(worker_of(backend)))
        handle = await TaskQueue(backend).enqueue(triple, 9)
        assert await handle.result(PATIENCE) == 27
        serving.cancel()
        await asyncio.wait_for(serving, PATIENCE)

    asyncio.run(program())


@pytest.mark.parametrize("run", ["asyncio", "trio"])
def test_two_kinds_started_one_after_the_other(backend: SQLiteBackend, run: str) -> None:
    """`start` returns once the worker runs; it does not block until the end."""

    async def program() -> None:
        wide = worker_of(backend, max_concurrency=50, poll_interval=0.5)
        narrow = worker_of(backend, max_concurrency=4, poll_interval=1.0)
        with anyio.fail_after(PATIENCE):
            await wide.start()
            await narrow.start()
        handle = await TaskQueue(backend).enqueue(triple, 10)
        assert await handle.result(PATIENCE) == 30
        await wide.stop()
        await narrow.stop()

    anyio.run(program, backend=run)


def test_no_result_yet(backend: SQLiteBackend) -> None:
    async def program() -> None:
        queue = TaskQueue(backend=backend)
        handle = await queue.enqueue(triple, 11)
        assert await queue.get_result(handle) is None
        assert await queue.get_result("01890000-0000-7000-8000-000000000000") is None
        await backend.close()  # no worker was there to do it: its threads would last to the exit

    asyncio.run(program())

"""What the tasks of a worker share: opened before the first, closed after the last of them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from sitq import Registry, SQLiteBackend, State, TaskQueue, Worker, current_task
from sitq.errors import InvalidOption, StoreUnusable, TaskFailed, UsageError
from sitq.worker import lifespan as module

from . import functions as f
from .test_run import until

pytestmark = pytest.mark.anyio

registry = Registry()
events: list[object] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    events.clear()
    f.noted.clear()


@pytest.fixture
async def backend() -> AsyncIterator[SQLiteBackend]:
    async with SQLiteBackend(":memory:") as backend:
        yield backend


@registry.task(name="resources")
async def resources() -> int:
    events.append("ran")
    return id(current_task().resources)


@registry.task(name="resources_in_thread")
def resources_in_thread() -> int:
    return id(current_task().resources)


@registry.task(name="resources_of_children")
async def resources_of_children() -> list[int]:
    queue = TaskQueue(stores[0])
    async with queue.task_group() as group:
        handles = [await group.enqueue(resources), await group.enqueue(resources_in_thread)]
        found = [await handle.result() for handle in handles]
    return [id(current_task().resources), *found]


stores: list[SQLiteBackend] = []


@registry.task(name="patient")
async def patient() -> None:
    events.append("started")
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.02)
        events.append("ended")


@registry.task(name="finishes")
async def finishes() -> None:
    go_on = events[0]
    assert isinstance(go_on, anyio.Event)
    events.append("started")
    await go_on.wait()


def worker(backend: SQLiteBackend, lifespan: Any, **options: Any) -> Worker:
    return Worker(backend, registry=registry, lifespan=lifespan, **{"grace": 0.0, **options})


@asynccontextmanager
async def noted() -> AsyncIterator[list[str]]:
    events.append("opened")
    try:
        yield ["shared"]
    finally:
        await anyio.lowlevel.checkpoint()
        events.append("closed")


Way = Callable[[Worker], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def hosted(one: Worker) -> AsyncIterator[None]:
    async with one:
        yield


@asynccontextmanager
async def structured(one: Worker) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        await group.start(one.run)
        try:
            yield
        finally:
            await one.stop()


@asynccontextmanager
async def in_background(one: Worker) -> AsyncIterator[None]:
    await one.start()
    try:
        yield
    finally:
        await one.stop()


def within_groups(error: BaseException) -> BaseException:
    """That of the worker: the group of a `structured` one is around it."""
    while isinstance(error, ExceptionGroup):
        [error] = error.exceptions
    return error


WAYS = pytest.mark.parametrize("way", [hosted, structured, in_background])


@WAYS
async def test_it_is_open_around_all_tasks(backend: SQLiteBackend, way: Way) -> None:
    handle = await TaskQueue(backend).enqueue(resources)
    async with way(worker(backend, noted)):
        await handle.result(5)
        assert events == ["opened", "ran"]
        await TaskQueue(backend).enqueue(patient)
        await until(lambda: events[-1] == "started")
    assert events == ["opened", "ran", "started", "ended", "closed"]


async def test_all_see_the_same_object(backend: SQLiteBackend) -> None:
    stores[:] = [backend]
    queue = TaskQueue(backend)
    shared = object()

    @asynccontextmanager
    async def opens() -> AsyncIterator[object]:
        yield shared

    async with worker(backend, opens):
        for function in (resources, resources_in_thread):
            assert await (await queue.enqueue(function)).result(5) == id(shared)
        handle = await queue.enqueue(resources_of_children)
        assert await handle.result(5) == [id(shared)] * 3


async def test_without_one_there_is_nothing(backend: SQLiteBackend) -> None:
    async with worker(backend, None):
        assert await (await TaskQueue(backend).enqueue(resources)).result(5) == id(None)


async def test_each_run_opens_its_own(backend: SQLiteBackend) -> None:
    one = worker(backend, noted)
    for _ in range(2):
        await one.start()
        await one.stop()
    assert events == ["opened", "closed"] * 2


async def test_it_stays_open_when_the_lease_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sitq.worker")
    async with SQLiteBackend(tmp_path / "tasks.db") as backend:
        queue = TaskQueue(backend)
        async with worker(backend, noted, lease=0.3, poll_interval=0.05):
            before = await (await queue.enqueue(resources)).result(5)
            [status] = await queue.workers()
            await backend.dismiss(status.id)
            with anyio.fail_after(10):
                while [one.id for one in await queue.workers()] in ([], [status.id]):
                    await anyio.sleep(0.01)
            assert await (await queue.enqueue(resources)).result(5) == before
    assert events == ["opened", "ran", "ran", "closed"]


async def test_what_was_reserved_goes_back_before_it_is_closed(backend: SQLiteBackend) -> None:
    states: list[object] = []
    queue = TaskQueue(backend)

    @asynccontextmanager
    async def looks() -> AsyncIterator[None]:
        yield
        states.extend(task.state for task in await queue.find())
        states.append(len(await queue.workers()))

    await queue.enqueue(patient)
    async with worker(backend, looks):
        await until(lambda: events == ["started"])
    assert states == [State.PENDING, 0]


# Starting.


@asynccontextmanager
async def cannot_open() -> AsyncIterator[None]:
    await anyio.lowlevel.checkpoint()
    raise LookupError("no such database")
    yield


@asynccontextmanager
async def yields_nothing() -> AsyncIterator[None]:
    if events:
        yield


@contextlib.contextmanager
def in_sync() -> Iterator[None]:
    yield


@WAYS
@pytest.mark.parametrize(
    ("lifespan", "error"),
    [
        (cannot_open, LookupError),
        (yields_nothing, RuntimeError),
        (in_sync, InvalidOption),
        (lambda: asyncio.sleep(0), InvalidOption),
    ],
)
async def test_an_error_of_the_start_comes_out(
    backend: SQLiteBackend, way: Way, lifespan: Any, error: type[Exception]
) -> None:
    handle = await TaskQueue(backend).enqueue(resources)
    with pytest.raises((error, ExceptionGroup)) as caught:
        async with way(worker(backend, lifespan)):
            await handle.result(5)
    assert type(within_groups(caught.value)) is error
    assert await handle.status() is State.PENDING


async def test_run_raises_it_bare(backend: SQLiteBackend) -> None:
    with pytest.raises(LookupError, match="no such database"):
        await worker(backend, cannot_open).run()
    assert await backend.workers() == []


@asynccontextmanager
async def opens_for_ever() -> AsyncIterator[None]:
    events.append("opening")
    try:
        await anyio.sleep_forever()
        yield
    finally:
        events.append("given up")


async def test_a_stop_ends_the_start(backend: SQLiteBackend) -> None:
    one = worker(backend, opens_for_ever, grace=60)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(one.start)
            await until(lambda: events == ["opening"])
            await one.stop()
    assert events == ["opening", "given up"]
    assert await backend.workers() == []


@asynccontextmanager
async def opens_in_a_thread() -> AsyncIterator[None]:
    events.append("opening")
    await anyio.to_thread.run_sync(f.gate.wait)
    try:
        yield
    finally:
        events.append("closed")


async def test_what_is_open_too_late_is_closed(backend: SQLiteBackend) -> None:
    f.gate.clear()
    one = worker(backend, opens_in_a_thread, grace=60)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(one.start)
            await until(lambda: events == ["opening"])
            group.start_soon(one.stop)
            await anyio.wait_all_tasks_blocked()
            f.gate.set()
    assert events == ["opening", "closed"]


@pytest.mark.parametrize("how", ["start", "run", "hosted"])
async def test_cancellation_ends_the_start(backend: SQLiteBackend, how: str) -> None:
    async def host() -> None:
        one = worker(backend, opens_for_ever, grace=60)
        if how == "hosted":
            async with one:
                raise AssertionError("it runs")
        await getattr(one, how)()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(host)
            await until(lambda: events == ["opening"])
            group.cancel_scope.cancel()
    assert events == ["opening", "given up"]


async def test_a_stop_before_the_start_opens_nothing(backend: SQLiteBackend) -> None:
    one = worker(backend, noted)
    starting = one.start()
    await one.stop()
    await starting
    assert events == []


# Failing in the midst.


class Failing:
    """A lifespan with a task of its own, which fails when it is told to."""

    def __init__(self) -> None:
        self.fail = anyio.Event()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(self._fail)
            yield
            group.cancel_scope.cancel()
        events.append("closed")

    async def _fail(self) -> None:
        await self.fail.wait()
        raise ConnectionError("gone")


async def test_a_task_group_of_its_own(backend: SQLiteBackend) -> None:
    failing = Failing()
    async with worker(backend, failing.lifespan):
        assert await (await TaskQueue(backend).enqueue(resources)).result(5) == id(None)
    assert events == ["ran", "closed"]


async def test_its_failure_stops_the_worker_gracefully(
    backend: SQLiteBackend, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing()
    go_on = anyio.Event()
    events.append(go_on)
    with anyio.fail_after(5), pytest.raises(ExceptionGroup) as caught:
        async with worker(backend, failing.lifespan, grace=60):
            await TaskQueue(backend).enqueue(finishes)
            await until(lambda: events[-1] == "started")
            failing.fail.set()
            await until(lambda: "lifespan broke" in caplog.text)
            await TaskQueue(backend).enqueue(finishes)
            assert "closed" not in events
            go_on.set()
            await anyio.sleep_forever()
    assert [type(error) for error in caught.value.exceptions] == [ConnectionError]
    counts = await TaskQueue(backend).counts()
    assert (counts[State.SUCCEEDED], counts[State.PENDING]) == (1, 1)


@asynccontextmanager
async def ends_by_itself() -> AsyncIterator[None]:
    with anyio.move_on_after(0.05):
        yield


async def test_an_end_without_an_error_is_one(backend: SQLiteBackend) -> None:
    with anyio.fail_after(5), pytest.raises(UsageError, match="scope of its own"):
        await worker(backend, ends_by_itself).run()


# Closing.


@asynccontextmanager
async def cannot_close() -> AsyncIterator[None]:
    yield
    raise LookupError("cannot close")


@asynccontextmanager
async def yields_twice() -> AsyncIterator[None]:
    yield
    yield


@WAYS
@pytest.mark.parametrize(
    ("lifespan", "error"), [(cannot_close, LookupError), (yields_twice, RuntimeError)]
)
async def test_an_error_of_the_end_comes_out(
    backend: SQLiteBackend, way: Way, lifespan: Any, error: type[Exception]
) -> None:
    with pytest.raises((error, ExceptionGroup)) as caught:
        async with way(worker(backend, lifespan)):
            pass
    assert type(within_groups(caught.value)) is error
    assert await backend.workers() == []


async def test_both_errors_come_out(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    backend = SQLiteBackend(path)
    with anyio.fail_after(10), pytest.raises(ExceptionGroup) as caught:
        async with worker(backend, cannot_close, lease=0.3, poll_interval=0.05):
            path.unlink()
            await anyio.sleep_forever()
    assert isinstance(caught.value.exceptions[0], StoreUnusable)
    assert isinstance(caught.value.exceptions[1], LookupError)


async def test_a_cancelled_host_closes_it_all_the_same(backend: SQLiteBackend) -> None:
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            await group.start(worker(backend, noted).run)
            group.cancel_scope.cancel()
    assert events == ["opened", "closed"]


@asynccontextmanager
async def closes_for_ever() -> AsyncIterator[None]:
    yield
    events.append("closing")
    await anyio.sleep_forever()


async def test_its_end_is_bounded(
    backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "CLOSE_LIMIT", 0.05)
    with anyio.fail_after(5):
        async with worker(backend, closes_for_ever):
            pass
    assert events == ["closing"]
    assert "did not close in time" in caplog.text


def test_the_end_of_asyncio_run_closes_it_last(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"

    async def forgets_to_stop() -> None:
        backend = SQLiteBackend(path)
        await worker(backend, noted).start()
        await TaskQueue(backend).enqueue(patient)
        await until(lambda: events[-1] == "started")

    asyncio.run(forgets_to_stop())
    assert events == ["opened", "started", "ended", "closed"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_native_cancellation_closes_it(backend: SQLiteBackend) -> None:
    for lifespan in (noted, opens_for_ever):
        events.clear()
        running = asyncio.create_task(worker(backend, lifespan).run())
        await until(lambda: len(events) == 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert len(events) == 2


# What is taken.


async def _coroutine() -> None: ...


async def _generator() -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def _with_argument(app: object) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    "value", [5, "noted", noted(), _coroutine, _generator, _with_argument, anyio.Event]
)
def test_what_is_no_lifespan_is_refused(value: Any) -> None:
    if value is anyio.Event:
        value = type("NoManager", (), {"__call__": lambda self, x: x})()
    with pytest.raises(InvalidOption, match="asynccontextmanager"):
        Worker(SQLiteBackend(":memory:"), lifespan=value)


class Pool:
    async def __aenter__(self) -> str:
        events.append("opened")
        return "pool"

    async def __aexit__(self, *_: object) -> None:
        events.append("closed")


@pytest.mark.parametrize(
    "lifespan", [Pool, lambda: Pool(), functools.partial(_with_argument, None)]
)
async def test_all_kinds_of_functions(backend: SQLiteBackend, lifespan: Any) -> None:
    async with worker(backend, lifespan):
        await (await TaskQueue(backend).enqueue(resources)).result(5)


async def test_resources_are_for_tasks_only(backend: SQLiteBackend) -> None:
    async with worker(backend, noted):
        with pytest.raises(UsageError):
            _ = current_task().resources


async def test_a_failing_task_does_not_close_it(backend: SQLiteBackend) -> None:
    broken = Registry()

    @broken.task(name="fails")
    async def fails() -> None:
        raise ValueError(current_task().resources[0])

    async with Worker(backend, registry=broken, lifespan=noted):
        for _ in range(2):
            with pytest.raises(TaskFailed, match="shared"):
                await (await TaskQueue(backend).enqueue(fails)).result(5)

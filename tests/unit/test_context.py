"""`current_task()`: where it tells of a task, beside the body of a function, and where it refuses.

What it tells is checked where tasks run, in tests/worker.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import AsyncIterator
from dataclasses import FrozenInstanceError
from uuid import UUID

import anyio
import pytest
from anyio import to_thread

from sitq import Registry, SQLiteBackend, TaskQueue, Worker, current_task
from sitq.errors import UsageError

pytestmark = pytest.mark.anyio

registry = Registry()


def current_id() -> UUID | None:
    try:
        return current_task().id
    except UsageError:
        return None


@registry.task(name="around")
async def around() -> dict[str, UUID | None]:
    """The ids seen by what this task starts."""
    seen: dict[str, UUID | None] = {}

    async def child() -> None:
        await anyio.sleep(0.01)
        seen["child"] = current_id()

    async with anyio.create_task_group() as group:
        group.start_soon(child)
    seen["worker thread"] = await to_thread.run_sync(current_id)
    return seen | in_new_threads()


@registry.task(name="around_sync")
def around_sync() -> dict[str, UUID | None]:
    """The ids seen by what this task starts in its thread."""
    return in_new_threads()


def in_new_threads() -> dict[str, UUID | None]:
    """A thread of its own has an empty context, unless it is given this one."""
    seen: dict[str, UUID | None] = {}
    context = contextvars.copy_context()
    threads = [
        threading.Thread(target=lambda: seen.update({"thread": current_id()})),
        threading.Thread(target=lambda: seen.update({"given": context.run(current_id)})),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


@registry.task(name="write")
async def write() -> str:
    task = current_task()
    try:
        task.attempt = 2  # pyright: ignore[reportAttributeAccessIssue]
    except FrozenInstanceError:
        return "frozen"
    return "written"


@registry.task(name="host_a_worker")
async def host_a_worker(own: bool) -> list[UUID | None]:
    """The ids seen by this task and by one that a worker inside it runs."""
    async with TaskQueue(SQLiteBackend(":memory:")) as queue:
        handle = await queue.enqueue(whoami)
        worker = Worker(queue._backend, registry=registry)
        if own:
            async with worker:
                seen = await handle.result(5)
        else:
            await worker.start()
            seen = await handle.result(5)
            await worker.stop()
    return [current_id(), seen == handle.id or None]  # type: ignore[list-item]


@registry.task(name="whoami")
async def whoami() -> UUID | None:
    await anyio.sleep(0.01)
    return current_id()


@registry.task(name="whoami_sync")
def whoami_sync() -> UUID | None:
    return current_id()


@pytest.fixture
async def queue() -> AsyncIterator[TaskQueue]:
    backend = SQLiteBackend(":memory:")
    async with TaskQueue(backend) as queue, Worker(backend, registry=registry):
        yield queue


def test_no_task_runs_outside() -> None:
    with pytest.raises(UsageError, match="no task runs here"):
        current_task()


async def test_no_task_runs_beside_a_worker(queue: TaskQueue) -> None:
    for function in (whoami, whoami_sync):
        handle = await queue.enqueue(function)
        assert await handle.result(5) == handle.id
        with pytest.raises(UsageError):
            current_task()
        with pytest.raises(UsageError):
            await to_thread.run_sync(current_task)


async def test_tasks_at_the_same_time_see_themselves(queue: TaskQueue) -> None:
    calls = [function.call() for _ in range(20) for function in (whoami, whoami_sync)]
    for handle in await queue.enqueue_many(calls):
        assert await handle.result(5) == handle.id


async def test_what_a_task_starts_belongs_to_it(queue: TaskQueue) -> None:
    handle = await queue.enqueue(around)
    assert await handle.result(5) == {
        "child": handle.id,
        "worker thread": handle.id,
        "thread": None,
        "given": handle.id,
    }
    handle = await queue.enqueue(around_sync)
    assert await handle.result(5) == {"thread": None, "given": handle.id}


async def test_it_cannot_be_written(queue: TaskQueue) -> None:
    assert await (await queue.enqueue(write)).result(5) == "frozen"


@pytest.mark.parametrize("own", [True, False])
async def test_a_worker_inside_a_task(queue: TaskQueue, own: bool) -> None:
    handle = await queue.enqueue(host_a_worker, own)
    assert await handle.result(5) == [handle.id, True]

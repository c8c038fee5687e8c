"""Watching a task: from what it is now, over each change, to its end."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import anyio
import pytest

from sitq import Registry, Retry, SQLiteBackend, State, Task, TaskHandle, TaskQueue, current_task
from sitq import Worker as PlainWorker
from sitq.errors import InvalidOption, NotOpen, TaskNotFound

pytestmark = pytest.mark.anyio

SHORT = 0.05
registry = Registry()
queues: list[TaskQueue] = []
steps: list[anyio.Event] = []


@pytest.fixture(autouse=True)
def _clean(queue: TaskQueue) -> None:
    queues[:] = [queue]
    steps[:] = [anyio.Event() for _ in range(4)]


@registry.task(name="steps", retry=Retry(attempts=2, base=0))
async def step_by_step() -> str:
    """Tells, fails, tells again and succeeds; each when it may go on."""
    attempt = current_task().attempt
    await steps[2 * attempt - 2].wait()
    current_task().progress(attempt, note="told")
    await steps[2 * attempt - 1].wait()
    if attempt == 1:
        raise ValueError
    return "done"


@registry.task(name="watches")
async def watches(id: str) -> str:
    """Watches another task, in its own slot."""
    async for task in queues[0].handle(id).watch(interval=SHORT):
        last = task
    return str(last.state)


@registry.task(name="quick")
async def quick() -> None:
    """Ends at once."""


def worker(backend: SQLiteBackend, **options: Any) -> PlainWorker:
    return PlainWorker(backend, registry=registry, poll_interval=0.2, **options)


def about(task: Task) -> tuple[State, int, float | None]:
    return task.state, task.attempts, None if task.progress is None else task.progress.done


async def test_each_change_is_seen(backend: SQLiteBackend, queue: TaskQueue) -> None:
    seen: list[tuple[State, int, float | None]] = []
    handle = await queue.enqueue(step_by_step)
    with anyio.fail_after(30):
        watch = handle.watch(interval=SHORT)
        seen.append(about(await anext(watch)))
        async with worker(backend):
            async for task in watch:
                seen.append(about(task))
                may_go_on(task)
    assert [one for one in seen if one[0] is not State.PENDING] == [
        (State.RUNNING, 0, None),
        (State.RUNNING, 0, 1.0),
        (State.RUNNING, 1, 1.0),
        (State.RUNNING, 1, 2.0),
        (State.SUCCEEDED, 1, 2.0),
    ]
    assert seen[0] == (State.PENDING, 0, None)
    assert len(seen) == len(set(seen))
    with pytest.raises(StopAsyncIteration):
        await anext(watch)


def may_go_on(task: Task) -> None:
    """What was waited for was seen: the next step may be done."""
    if task.state is State.RUNNING:
        has_told = task.progress is not None and task.progress.done > task.attempts
        steps[2 * task.attempts + has_told].set()


async def test_its_end_is_seen_at_once(backend: SQLiteBackend, queue: TaskQueue) -> None:
    handle = await queue.enqueue(quick.using(delay=3600))
    watch = handle.watch(interval=3600)
    with anyio.fail_after(30):
        assert (await anext(watch)).state is State.PENDING
        async with anyio.create_task_group() as group:

            async def see_the_end() -> None:
                assert (await anext(watch)).state is State.CANCELLED

            group.start_soon(see_the_end)
            await anyio.wait_all_tasks_blocked()
            await handle.cancel()
    assert [task async for task in watch] == []


async def test_one_that_has_ended(queue: TaskQueue) -> None:
    handle = await queue.enqueue(quick)
    await handle.cancel()
    with anyio.fail_after(30):
        seen = [task.state async for task in handle.watch(interval=3600)]
    assert seen == [State.CANCELLED]


async def test_that_it_is_to_be_cancelled(backend: SQLiteBackend, queue: TaskQueue) -> None:
    handle = await queue.enqueue(step_by_step)
    seen: list[tuple[State, bool]] = []
    with anyio.fail_after(30):
        async with worker(backend):
            async for task in handle.watch(interval=SHORT):
                seen.append((task.state, task.cancel_requested))
                if seen[-1] == (State.RUNNING, False):
                    await handle.cancel()
    assert seen[-1] == (State.CANCELLED, True)


async def test_one_that_is_not_there(queue: TaskQueue) -> None:
    with pytest.raises(TaskNotFound):
        await anext(queue.handle(uuid4()).watch())


async def test_one_that_is_purged_meanwhile(queue: TaskQueue) -> None:
    handle = await queue.enqueue(quick)
    watch = handle.watch(interval=3600)
    await anext(watch)
    await handle.cancel()
    await queue.purge()
    with anyio.fail_after(30), pytest.raises(TaskNotFound, match=str(handle.id)):
        await anext(watch)


async def test_a_loop_can_be_left(backend: SQLiteBackend, queue: TaskQueue) -> None:
    handle = await queue.enqueue(quick.using(delay=3600))
    watch = handle.watch(interval=3600)
    async for task in watch:
        assert task.state is State.PENDING
        break
    with anyio.move_on_after(0.01) as limit:
        await anext(watch)
    assert limit.cancelled_caught
    assert not backend._opened.waiters._events
    await handle.cancel()
    assert [task.state async for task in watch] == [State.CANCELLED]  # it is as good as before


async def test_a_store_that_is_closed(queue: TaskQueue, backend: SQLiteBackend) -> None:
    handle = await queue.enqueue(quick.using(delay=3600))
    watch = handle.watch(interval=3600)
    await anext(watch)
    await backend.close()
    with anyio.fail_after(30), pytest.raises(NotOpen):
        await anext(watch)
    await backend.open()


async def test_inside_a_task_others_get_its_slot(backend: SQLiteBackend, queue: TaskQueue) -> None:
    last = await queue.enqueue(quick.using(delay=0.3))
    handle: TaskHandle[str] = await queue.enqueue(watches, str(last.id))
    async with worker(backend, max_concurrency=1):
        assert await handle.result(30) == State.SUCCEEDED


@pytest.mark.parametrize("interval", [0, 0.04, -1, float("nan"), "1", None])
async def test_what_is_no_interval(queue: TaskQueue, interval: Any) -> None:
    with pytest.raises(InvalidOption, match="interval must be"):
        queue.handle(uuid4()).watch(interval=interval)

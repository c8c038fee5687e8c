"""What a group promises: the end of its block, failure, cancellation, and what is below it."""

from __future__ import annotations

import anyio
import pytest

from sitq import SQLiteBackend, State, TaskHandle, TaskQueue
from sitq.errors import TaskFailed, UsageError

from ..postgres import tables
from . import functions as f
from .conftest import until, worker

pytestmark = pytest.mark.anyio


async def test_the_block_ends_when_every_child_has(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        async with queue.task_group() as tg:
            handles = [await tg.enqueue(f.echo, n) for n in range(5)]
            handles += await tg.enqueue_many([f.echo.call(n) for n in range(5, 10)])
        assert [await handle.status() for handle in handles] == [State.SUCCEEDED] * 10
        assert [await handle.result() for handle in handles] == [*range(10)]


async def test_an_empty_block_ends(queue: TaskQueue) -> None:
    with anyio.fail_after(10):
        async with queue.task_group():
            pass


async def test_a_result_can_be_awaited_in_the_block(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend), queue.task_group() as tg:
        first = await (await tg.enqueue(f.echo, 1)).result(5)
        assert await (await tg.enqueue(f.echo, first + 1)).result(5) == 2


async def test_one_that_fails_cancels_the_others_and_the_body(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    reached = False
    async with worker(backend):
        with pytest.raises(ExceptionGroup) as caught:
            async with queue.task_group() as tg:
                sleepers = [await tg.enqueue(f.sleep) for _ in range(3)]
                waits = await tg.enqueue(f.sleep.using(delay=3600))
                await until(lambda: f.noted.count("started") == 3)
                await tg.enqueue(f.fail, "boom")
                await anyio.sleep(60)
                reached = True
        assert not reached
        [error] = caught.value.exceptions
        assert isinstance(error, TaskFailed)
        assert error.result.error is not None
        assert error.result.error.type == "builtins.ValueError"
        assert error.result.error.message == "boom"
        for handle in (*sleepers, waits):
            assert await handle.status() is State.CANCELLED


async def test_the_body_that_fails_cancels_the_children(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        with pytest.raises(ExceptionGroup) as caught:
            async with queue.task_group() as tg:
                sleeper = await tg.enqueue(f.sleep)
                await until(lambda: f.noted == ["started"])
                raise KeyError("mine")
        assert [type(error) for error in caught.value.exceptions] == [KeyError]
        assert await sleeper.status() is State.CANCELLED


async def test_a_block_that_is_cancelled_cancels_the_children(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        with anyio.CancelScope() as scope:
            async with queue.task_group() as tg:
                sleeper = await tg.enqueue(f.sleep)
                await until(lambda: f.noted == ["started"])
                scope.cancel()
                await anyio.sleep(60)
        assert scope.cancelled_caught
        assert await sleeper.status() is State.CANCELLED
        await until(lambda: f.noted == ["started", "cancelled"])


async def test_the_error_of_a_child_that_the_body_waited_for_comes_once(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        with pytest.raises(ExceptionGroup) as caught:
            async with queue.task_group() as tg:
                await (await tg.enqueue(f.fail, "boom")).result()
        assert [type(error) for error in caught.value.exceptions] == [TaskFailed]


async def test_as_completed_yields_all_as_they_end(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend), queue.task_group() as tg:
        slow = await tg.enqueue(f.sleep, 0.2)
        quick = await tg.enqueue(f.echo, 1)
        assert [handle async for handle in tg.as_completed()] == [quick, slow]
        assert [handle async for handle in tg.as_completed()] == [quick, slow]


async def test_a_group_that_has_ended_takes_no_more(queue: TaskQueue) -> None:
    async with queue.task_group() as tg:
        pass
    with pytest.raises(UsageError, match="inside its block"):
        await tg.enqueue(f.echo, 1)


async def test_trees(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend, max_concurrency=1):
        handle = await queue.enqueue(f.total, 3, 3)
        assert await handle.result(30) == 27
        tree = await queue.tree(handle)
        assert tree is not None
        assert tree.task.id == handle.id
        assert len(tree.children) == 3
        assert all(len(child.children) == 3 for child in tree.children)


async def test_cancelling_a_parent_cancels_all_below(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        parent = await queue.enqueue(f.parent_of_sleepers, 3)
        await until(lambda: f.noted.count("started") == 3)
        await parent.cancel()
        await until(lambda: f.noted.count("cancelled") == 3)
        assert (await queue.get_result(parent, timeout=10)).state is State.CANCELLED
        tree = await queue.tree(parent)
        assert {child.task.state for child in tree.children} == {State.CANCELLED}


async def test_a_new_attempt_keeps_what_succeeded(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        handle = await queue.enqueue(f.fails_below)
        assert await handle.result(10) == "kept"
        assert f.noted == ["kept", "second"]


async def test_a_refused_child_takes_no_name(backend: SQLiteBackend, queue: TaskQueue) -> None:
    """What is tried again must have the place that it has when its parent runs again."""
    await queue.enqueue(f.echo.using(key="taken", delay=3600), 1)
    async with worker(backend):
        handle = await queue.enqueue(f.tries_again)
        tree = await queue.tree(await _ended(handle))
    assert tree is not None
    assert [child.task.name for child in tree.children] == ["echo", "echo"]
    names = await tables(backend, "SELECT child FROM sitq_task WHERE child IS NOT NULL ORDER BY 1")
    assert names == [("#0",), ("named",)]


async def _ended(handle: TaskHandle[None]) -> TaskHandle[None]:
    await handle.result(10)
    return handle

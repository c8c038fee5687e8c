"""A task that only waits lets others have its slot."""

from __future__ import annotations

import anyio
import pytest

from sitq import SQLiteBackend, TaskQueue

from . import functions as f
from .conftest import until, worker

pytestmark = pytest.mark.anyio


async def test_one_slot_serves_a_tree(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend, max_concurrency=1):
        assert await (await queue.enqueue(f.total, 3, 2)).result(20) == 8


async def test_one_slot_serves_waits_that_go_on_at_once(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend, max_concurrency=1):
        assert await (await queue.enqueue(f.waits_at_once, 20)).result(20) == [*range(20)]


async def test_a_plain_function_that_waits_gives_its_slot_back(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend, max_concurrency=1):
        assert await (await queue.enqueue(f.total_in_thread, 2)).result(20) == 4


async def test_no_more_run_at_a_time_than_there_are_slots(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend, max_concurrency=2) as it:
        async with queue.task_group() as tg:
            await tg.enqueue_many([f.total.call(2, 3) for _ in range(5)])
            shift = it._shift
            assert shift is not None
            with anyio.move_on_after(2):
                while shift.held or await queue.counts() == {}:
                    assert shift.slots.borrowed_tokens <= 2
                    await anyio.sleep(0.001)
        await until(lambda: not shift.held)
        await until(lambda: shift.slots.borrowed_tokens <= 2)


async def test_trees_are_finished_one_after_the_other(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    """Else each of the 50 parents would start before the first one ends."""
    async with worker(backend, max_concurrency=2) as it:
        most = 0
        handles = await queue.enqueue_many([f.total.call(2, 2) for _ in range(50)])
        shift = it._shift
        assert shift is not None
        with anyio.fail_after(60):
            while (await queue.counts())[handles and "succeeded"] < 350:  # type: ignore[index]
                most = max(most, sum(run.waits > 0 for run in shift.held.values()))
                await anyio.sleep(0.001)
        # On PostgreSQL a slot may find nothing to go on with while a child is on its way.
        assert most <= (10 if isinstance(backend, SQLiteBackend) else 24)


async def test_a_wait_that_begins_while_a_slot_is_waited_for(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    """The run waits on, so it must not keep the slot that it gets: what it waits for needs it."""
    async with worker(backend, max_concurrency=1):
        assert await (await queue.enqueue(f.waits_again)).result(20) == "done"


async def test_no_slot_is_lost_by_a_wait_that_is_given_up(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend, max_concurrency=1) as it:
        assert await (await queue.enqueue(f.gives_up)).result(20) == "given up"
        shift = it._shift
        assert shift is not None
        await until(lambda: shift.slots.borrowed_tokens <= 1)
        assert await (await queue.enqueue(f.echo, 1)).result(10) == 1

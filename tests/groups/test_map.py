"""Mapping a function over items: a task each, and a bounded number ahead."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest

from sitq import SQLiteBackend, State, TaskQueue
from sitq.errors import InvalidOption, TaskFailed, UsageError

from . import functions as f
from .conftest import until, worker

pytestmark = pytest.mark.anyio


async def test_results_come_in_the_order_of_the_items(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend), queue.map(f.square, range(100), limit=7) as results:
        assert [value async for value in results] == [n * n for n in range(100)]


async def test_results_come_as_they_are_there(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend), queue.map(f.square, range(100), limit=7, ordered=False) as results:
        assert sorted([value async for value in results]) == [n * n for n in range(100)]


async def test_no_items(queue: TaskQueue) -> None:
    async with queue.map(f.square, []) as results:
        assert [value async for value in results] == []


async def test_only_so_many_are_ahead(backend: SQLiteBackend, queue: TaskQueue) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1_000):
            taken.append(number)
            yield number

    async with worker(backend), queue.map(f.square, items(), limit=10) as results:
        async for value in results:
            assert len(taken) <= value**0.5 + 11
            if value == 400:
                break
    assert len(taken) <= 31


async def test_leaving_early_cancels_the_rest(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        async with queue.map(f.sleep, [0.01, 60, 60]) as results:
            async for _ in results:
                break
        counts = await queue.counts()
        assert counts[State.SUCCEEDED] == 1
        assert counts[State.CANCELLED] == 2
        await until(lambda: f.noted.count("cancelled") == f.noted.count("started") - 1)


async def test_one_that_fails_ends_it(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        with pytest.raises(ExceptionGroup) as caught:
            async with queue.map(f.square, [1, 2, -3, 4]) as results:
                async for _ in results:
                    pass
        assert [type(error) for error in caught.value.exceptions] == [TaskFailed]


async def test_inside_a_task_it_finds_what_was_done(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    handle = await queue.enqueue(f.squares, [*range(50)])
    async with worker(backend):
        await until(lambda: len(f.noted) >= 20)
    async with worker(backend):
        assert await handle.result(20) == [n * n for n in range(50)]
    assert sorted(f.noted) == [*range(50)]


async def test_input_is_checked(queue: TaskQueue) -> None:
    with pytest.raises(InvalidOption, match="iterable"):
        queue.map(f.square, 5)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="limit"):
        queue.map(f.square, [], limit=0)
    with anyio.fail_after(5):
        with pytest.raises(ExceptionGroup):
            async with queue.map(f.total, [1]) as results:  # type: ignore[arg-type]
                async for _ in results:
                    pass


async def test_a_map_that_was_cancelled_in_its_body_is_over(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    """It does not know what was stored, and must not leave out items in silence."""
    async with queue.map(f.square, range(6), limit=4) as results:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(results)
        with pytest.raises(UsageError, match="cancelled"):
            await anext(results)
    for wrong in (f.square.using(key="k"), f.square.using(child="c")):
        with pytest.raises(InvalidOption, match="neither key nor child"):
            queue.map(wrong, [1])

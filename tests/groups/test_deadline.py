"""The deadline of a group travels to its children."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from sitq import SQLiteBackend, State, TaskQueue
from sitq.errors import InvalidOption, TaskFailed

from . import functions as f
from .conftest import worker

pytestmark = pytest.mark.anyio
AGREES = 0.05
"""Seconds by which two processes may differ about a deadline."""


async def test_the_deadline_around_the_block_is_the_childrens(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        with anyio.fail_after(50):
            mine = f.ends_at()
            async with queue.task_group() as tg:
                handle = await tg.enqueue(f.tell_end)
        assert await handle.result() == pytest.approx(mine, abs=AGREES)


async def test_a_parent_hands_its_own_on(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        mine, below = await (await queue.enqueue(f.tell_ends)).result(10)
        assert below == pytest.approx(mine, abs=AGREES)


async def test_a_task_outside_a_group_has_none(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        with anyio.fail_after(50):
            handle = await queue.enqueue(f.tell_end)
            assert await handle.result() == math.inf


async def test_another_one_or_none(backend: SQLiteBackend, queue: TaskQueue) -> None:
    later = datetime.now(UTC) + timedelta(seconds=500)
    sooner = datetime.now(UTC) + timedelta(seconds=50)
    async with worker(backend):
        with anyio.fail_after(30):
            async with queue.task_group(deadline=math.inf) as tg:
                free = await tg.enqueue(f.tell_end)
            async with queue.task_group(deadline=later) as tg:
                bound = await tg.enqueue(f.tell_end)
                own = await tg.enqueue(f.tell_end.using(deadline=sooner))
        assert await free.result() == math.inf
        assert await bound.result() == pytest.approx(later.timestamp(), abs=AGREES)
        assert await own.result() == pytest.approx(sooner.timestamp(), abs=AGREES)
    for wrong in (5.0, datetime.now(), "soon"):
        with pytest.raises(InvalidOption, match="deadline"):
            queue.task_group(deadline=wrong)  # type: ignore[arg-type]


async def test_a_child_whose_deadline_has_passed_never_starts(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    async with worker(backend, lease=0.3):
        with pytest.raises(ExceptionGroup) as caught:
            async with queue.task_group(deadline=past) as tg:
                handle = await tg.enqueue(f.echo, 1)
        [error] = caught.value.exceptions
        assert isinstance(error, TaskFailed)
        assert error.result.error is not None
        assert error.result.error.type == "sitq.errors.DeadlinePassed"
        assert await handle.status() is State.FAILED
    assert f.noted == []

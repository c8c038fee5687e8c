"""Every time that is stored is a whole number of microseconds, however it came about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from sitq import Registry, Retry, SQLiteBackend, TaskQueue, Worker
from sitq.backends.base import Filter
from sitq.clock import to_microsecond
from sitq.errors import StoreUnavailable
from sitq.model import State, TaskRow
from sitq.testing import Clock
from sitq.worker.shift import Shift

pytestmark = pytest.mark.anyio

registry = Registry()
strangers = Registry()
queues: list[TaskQueue] = []
THIRD = 100 / 3


class PreciseDatetime(datetime):
    """As those of other libraries, which know nanoseconds."""

    def timestamp(self) -> float:
        return super().timestamp() + 3e-7


@registry.task(retry=Retry(attempts=2, base=THIRD, cap=THIRD, jitter=False))
async def fails() -> None:
    raise ValueError("again")


@registry.task(retry=Retry(attempts=2, base=10, cap=100))
async def fails_at_random() -> None:
    raise ValueError("again")


@registry.task
async def ends() -> None:
    """Is the child."""


@registry.task(timeout=THIRD)
async def has_children() -> None:
    async with queues[0].task_group() as tg:
        await tg.enqueue(ends)


@registry.task
async def later() -> None:
    """Is never begun here."""


@strangers.task
async def stranger() -> None:
    """Is unknown here."""


def moments(row: TaskRow) -> list[float]:
    told = (row.enqueued, row.run_at, row.deadline, row.started, row.ended)
    return [one for one in told if one is not None]


async def rows(backend: SQLiteBackend) -> dict[str, TaskRow]:
    found = await backend.find(Filter(), after=0, limit=100)
    return {row.name.rpartition(".")[2]: row for row in found}


async def settled(backend: SQLiteBackend) -> dict[str, TaskRow]:
    """The tasks when each has been as far as it comes."""
    while True:
        found = await rows(backend)
        waiting = {name for name, row in found.items() if row.started is None}
        running = [row for row in found.values() if row.state is State.RUNNING]
        if waiting == {"later"} and not running and "ends" in found:
            return found
        await anyio.sleep(0.01)


async def test_retried_released_delayed_and_children(backend: SQLiteBackend) -> None:
    queues[:] = [queue] = [TaskQueue(backend)]
    soon = PreciseDatetime.now(UTC) + timedelta(seconds=THIRD)
    for function in (fails, fails_at_random, stranger, has_children.using(deadline=soon)):
        await queue.enqueue(function)
    await queue.enqueue(later.using(delay=THIRD))
    with anyio.fail_after(20):
        async with Worker(backend, registry=registry):
            found = await settled(backend)
    assert len(found) == 6
    for row in found.values():
        assert moments(row) == [to_microsecond(one) for one in moments(row)]
    assert found["fails"].run_at > found["fails"].enqueued + THIRD - 1e-6
    assert found["stranger"].run_at >= found["stranger"].enqueued + 1
    assert abs(found["later"].run_at - found["later"].enqueued - THIRD) < 2e-6
    parent, child = found["has_children"], found["ends"]
    assert child.run_at == to_microsecond(parent.run_at - 1e-6) < parent.run_at
    assert child.deadline is not None
    assert parent.deadline == to_microsecond(soon.timestamp())


async def test_a_worker_knows_the_time_while_the_store_is_away() -> None:
    clock = Clock()

    async def now() -> float:
        raise StoreUnavailable("away")

    shift: Any = SimpleNamespace(backend=SimpleNamespace(now=now, clock=clock))
    assert await Shift.now(shift) == clock.time()

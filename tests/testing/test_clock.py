"""The clock of tests: it travels forward only, and whoever waits for work finds out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitq import Registry, SQLiteBackend, TaskQueue, Worker
from sitq.clock import to_microsecond
from sitq.errors import InvalidOption
from sitq.testing import Clock

registry = Registry()
START = 1_700_000_000.0
spans = st.floats(0, 1e6)


@registry.task
async def ends() -> str:
    return "ended"


@given(
    st.floats(1e9, 2e9), st.lists(spans | st.timedeltas(timedelta(0), timedelta(10)), max_size=5)
)
def test_it_stays_on_whole_microseconds(start: float, moves: list[float | timedelta]) -> None:
    clock = Clock(start)
    for move in moves:
        before = clock.time()
        clock.travel(move)
        assert before <= clock.time() == to_microsecond(clock.time())
        clock.jump(-1 / 3)
        assert clock.time() == to_microsecond(clock.time())


@pytest.mark.parametrize("to", [90, 90.0, timedelta(minutes=1.5)])
def test_it_travels_so_far_on_both_clocks(to: float | timedelta) -> None:
    clock = Clock(START)
    clock.travel(to)
    clock.travel(to)
    assert (clock.time(), clock.monotonic()) == (START + 180, 180)


@given(st.datetimes(datetime(2024, 1, 1), datetime(2100, 1, 1), timezones=st.timezones()))
def test_it_travels_to_a_moment_exactly(at: datetime) -> None:
    clock = Clock(START)
    clock.travel(at)
    assert clock.time() == at.timestamp()
    assert clock.monotonic() == at.timestamp() - START


def test_to_the_moment_that_it_is() -> None:
    clock = Clock(START)
    clock.travel(0)
    clock.travel(datetime.fromtimestamp(START, timezone(timedelta(hours=5))))
    assert (clock.time(), clock.monotonic()) == (START, 0)


@pytest.mark.parametrize(
    "to", [-0.001, timedelta(seconds=-1), datetime(2023, 11, 14, 22, 13, 19, tzinfo=UTC)]
)
def test_it_does_not_travel_back(to: float | timedelta | datetime) -> None:
    clock = Clock(START)
    with pytest.raises(InvalidOption, match="forward only"):
        clock.travel(to)
    assert (clock.time(), clock.monotonic()) == (START, 0)


@pytest.mark.parametrize(
    "to", ["3600", None, True, float("nan"), float("inf"), datetime(2030, 1, 1)]
)
def test_it_travels_nowhere_else(to: Any) -> None:
    clock = Clock(START)
    with pytest.raises(InvalidOption, match="travel must"):
        clock.travel(to)
    assert (clock.time(), clock.monotonic()) == (START, 0)


def test_an_administrator_may_set_it_back() -> None:
    clock = Clock(START)
    clock.jump(-60)
    assert (clock.time(), clock.monotonic()) == (START - 60, 0)


@pytest.mark.anyio
async def test_a_worker_finds_out(anyio_backend: str) -> None:
    clock = Clock()
    backend = SQLiteBackend(":memory:", clock=clock)
    async with TaskQueue(backend) as queue, Worker(backend, registry=registry, poll_interval=0.01):
        handle = await queue.enqueue(ends.using(delay=86_400))
        clock.travel(timedelta(days=1))
        assert await handle.result(timeout=10) == "ended"

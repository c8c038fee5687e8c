"""Wall-clock times are whole microseconds, and stay what they are on their way through a store."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from sitq.clock import MICROSECOND, Clock, step_before, to_microsecond
from sitq.handle import moment

IN_2170 = datetime(2170, 1, 1, tzinfo=UTC).timestamp()
times = st.floats(0, IN_2170)
microseconds = st.integers(0, int(IN_2170) * 1_000_000)


@given(times)
@example(0.0)
@example(2.0**32 + 0.1)
@example(IN_2170)
def test_a_rounded_time_is_rounded_for_good(seconds: float) -> None:
    rounded = to_microsecond(seconds)
    assert abs(rounded - seconds) <= MICROSECOND
    assert to_microsecond(rounded) == rounded


@given(times)
def test_a_rounded_time_passes_through_a_datetime(seconds: float) -> None:
    rounded = to_microsecond(seconds)
    assert moment(rounded).timestamp() == rounded


@given(microseconds)
def test_each_microsecond_has_one_time(number: int) -> None:
    assert to_microsecond(number / 1_000_000) == number / 1_000_000
    # Each of the two operations may be wrong by 2**-53 of it: exact up to 2041, and never off by 2.
    off = round(to_microsecond(number / 1_000_000) * 1_000_000) - number
    assert abs(off) <= (number >= 2**51)


@given(st.datetimes(datetime(1970, 1, 1), datetime(2170, 1, 1), timezones=st.timezones()))
def test_the_time_of_a_datetime_is_rounded(at: datetime) -> None:
    assert to_microsecond(at.timestamp()) == at.timestamp()


def test_the_clock_reads_whole_microseconds_and_is_not_ahead() -> None:
    clock = Clock()
    for _ in range(1_000):
        before, now, after = time.time_ns(), clock.time(), time.time_ns()
        assert to_microsecond(now) == now
        assert before // 1_000 <= round(now * 1_000_000) <= after // 1_000


@given(st.integers(1, 4_000_000_000_000_000))
def test_a_step_is_a_microsecond(number: int) -> None:
    assert step_before(number / 1_000_000) == (number - 1) / 1_000_000


def test_there_is_no_step_before_1970() -> None:
    assert step_before(0.0) == 0.0

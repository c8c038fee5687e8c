"""A retry policy is pure: which failures run again, and when."""

from __future__ import annotations

import tracemalloc
from random import Random
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sitq.errors import InvalidOption
from sitq.retry import (
    MAX_ATTEMPTS,
    MAX_DELAY,
    MAX_RULES,
    MAX_STORED,
    NO_RETRY,
    Retry,
    type_names,
)


class Gone(ConnectionError):
    """An error of a user, two classes below one of Python's."""

    class Forever(Exception):
        """One that lives inside another."""


GONE = f"{__name__}.Gone"

rules = st.lists(st.sampled_from([ValueError, OSError, Gone, "KeyError", "pkg.mod.Lost"]))
counts = st.integers(1, MAX_ATTEMPTS)
seeds = st.integers()
either = st.booleans()


@st.composite
def policies(draw: st.DrawFn, jitter: st.SearchStrategy[bool] = either) -> Retry:
    whole = draw(either)
    figures = st.integers if whole else st.floats
    base = draw(figures(0, int(MAX_DELAY)))
    return Retry(
        attempts=draw(counts),
        base=base,
        factor=draw(figures(1, 1_000_000)),
        cap=draw(figures(base, int(MAX_DELAY))),
        jitter=draw(jitter),
        retry_on=draw(st.none() | rules),
        give_up_on=draw(rules),
    )


def without_jitter(policy: Retry) -> Retry:
    return Retry(base=policy.base, factor=policy.factor, cap=policy.cap, jitter=False)


# The delay.


@given(policies(), counts, seeds)
@example(Retry(base=1, factor=1_000_000), MAX_ATTEMPTS, 0)
@example(Retry(base=0), MAX_ATTEMPTS, 0)
def test_a_delay_is_between_base_and_its_ceiling(policy: Retry, failed: int, seed: int) -> None:
    ceiling = without_jitter(policy).delay(failed + 1, Random(seed))
    assert policy.base <= policy.delay(failed, Random(seed)) <= ceiling <= policy.cap


@given(policies(), counts, seeds)
def test_the_seed_decides_the_delay(policy: Retry, failed: int, seed: int) -> None:
    assert policy.delay(failed, Random(seed)) == policy.delay(failed, Random(seed))


@given(policies(st.just(False)), counts, counts)
def test_the_ceiling_never_shrinks(policy: Retry, one: int, other: int) -> None:
    rng = Random(0)
    untouched = rng.getstate()
    assert policy.delay(min(one, other), rng) <= policy.delay(max(one, other), rng)
    assert rng.getstate() == untouched


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (Retry(base=1, factor=2, cap=10, jitter=False), [1, 2, 4, 8, 10, 10]),
        (Retry(base=3, factor=1, jitter=False), [3, 3, 3]),
        (Retry(base=5, factor=9, cap=5), [5, 5, 5]),
        (Retry(base=0), [0, 0, 0]),
    ],
)
def test_delays_by_hand(policy: Retry, delays: list[float]) -> None:
    assert [policy.delay(n, Random(0)) for n in range(1, len(delays) + 1)] == delays


@pytest.mark.parametrize("jitter", [True, False])
def test_a_base_of_nothing_never_waits_however_late(jitter: bool) -> None:
    assert Retry(base=0, factor=1e6, jitter=jitter).delay(MAX_ATTEMPTS, Random(0)) == 0


def test_jitter_spreads_over_the_whole_range() -> None:
    policy, rng = Retry(base=10, factor=2, cap=1000), Random(1)
    drawn = [policy.delay(4, rng) for _ in range(1000)]
    assert min(drawn) < 12
    assert max(drawn) > 155
    assert len({policy.delay(1, rng) for _ in range(50)}) == 50  # the first retry as well


# Which failures run again.


def test_names_of_an_exception() -> None:
    bases = ("ConnectionError", "OSError", "Exception", "BaseException")
    assert type_names(Gone()) == {GONE, *(f"builtins.{name}" for name in bases)}
    assert f"{GONE}.Forever" in type_names(Gone.Forever())


def test_names_of_a_group_are_those_of_its_leaves_too() -> None:
    group = BaseExceptionGroup("a", [ExceptionGroup("b", [Gone(), KeyError()]), SystemExit()])
    leaves = {GONE, "builtins.KeyError", "builtins.SystemExit"}
    assert leaves | {"builtins.BaseExceptionGroup", "builtins.ExceptionGroup"} <= type_names(group)


def test_a_member_that_occurs_often_costs_once() -> None:
    group: Exception = Gone()
    for _ in range(60):
        group = ExceptionGroup("both", [group, group])
    assert GONE in type_names(group)


NESTED = ExceptionGroup("a", [ValueError(), ExceptionGroup("b", [Gone()])])


@pytest.mark.parametrize(
    ("policy", "error", "again"),
    [
        (Retry(), ValueError(), True),
        (Retry(retry_on=[]), ValueError(), False),
        (Retry(retry_on=[Gone]), Gone(), True),
        (Retry(retry_on=[Gone]), ConnectionError(), False),
        (Retry(retry_on=[OSError]), Gone(), True),
        (Retry(retry_on=OSError), Gone(), True),
        (Retry(retry_on="OSError"), Gone(), True),
        (Retry(retry_on=["builtins.OSError"]), Gone(), True),
        (Retry(retry_on=[GONE]), Gone(), True),
        (Retry(retry_on=["Gone"]), Gone(), False),
        (Retry(retry_on=["other.Gone"]), Gone(), False),
        (Retry(retry_on=[Gone.Forever]), Gone.Forever(), True),
        (Retry(retry_on=[Gone]), NESTED, True),
        (Retry(retry_on=["ExceptionGroup"]), NESTED, True),
        (Retry(retry_on=[KeyError]), NESTED, False),
        (Retry(give_up_on=[OSError]), NESTED, False),
        (Retry(give_up_on=[OSError]), Gone(), False),
        (Retry(give_up_on=[OSError]), KeyError(), True),
        (Retry(retry_on=[Gone], give_up_on=[OSError]), Gone(), False),
        (Retry(retry_on=[Exception], give_up_on=[Gone]), OSError(), True),
    ],
)
def test_which_failures_run_again(policy: Retry, error: BaseException, again: bool) -> None:
    assert policy.retries(1, type_names(error)) is again


@given(policies(), counts, st.sampled_from([ValueError(), Gone(), KeyError(), NESTED]))
def test_what_is_given_up_or_used_up_never_runs_again(
    policy: Retry, failed: int, error: Exception
) -> None:
    again = policy.retries(failed, type_names(error))
    if failed >= policy.attempts or set(policy.give_up_on) & type_names(error):
        assert not again
    elif policy.retry_on is None:
        assert again


@given(counts, counts)
@example(3, 2)
@example(3, 3)
def test_attempts_count_the_first_run_too(attempts: int, failed: int) -> None:
    assert Retry(attempts=attempts).retries(failed, set()) is (failed < attempts)


def test_no_retry_is_none() -> None:
    assert not NO_RETRY.retries(1, type_names(ValueError()))


# What is refused, and what is stored.


class Unprintable:
    """Its repr fails, as that of a broken proxy does."""

    def __repr__(self) -> str:
        raise RuntimeError


REFUSED = {
    "attempts": (0, -1, True, 1.0, "3", None, MAX_ATTEMPTS + 1, 10**5_000, Unprintable()),
    "base": (-1, float("nan"), float("inf"), True, "1", None, MAX_DELAY * 2, 10**5_000),
    "factor": (0.5, -1, float("nan"), float("inf"), True, "2", None, 1e7, 10**5_000),
    "cap": (0.5, -1, float("nan"), float("inf"), True, "1", None, MAX_DELAY * 2, 10**5_000),
    "jitter": (None, 1, 0, "yes"),
    "retry_on": (5, int, "", [int], [5], [""], [None], ["\ud800"], [b"OSError"], [ValueError()]),
    "give_up_on": (None, 5, int, "", [int], [""], ["a\n"], ["x" * 10_000_000 + "\0"]),
}


@pytest.mark.parametrize(
    ("option", "number"),
    [(name, n) for name, values in REFUSED.items() for n in range(len(values))],
)
def test_bad_values_are_refused(option: str, number: int) -> None:
    given_options: dict[str, Any] = {option: REFUSED[option][number]}
    with pytest.raises(InvalidOption) as refused:
        Retry(**given_options)
    assert option in str(refused.value)
    assert len(str(refused.value)) < 200


def test_rules_are_read_once_and_sorted() -> None:
    policy = Retry(retry_on=iter([OSError, "a.B", "OSError"]))
    assert policy.retry_on == ("a.B", "builtins.OSError")
    assert policy == Retry(retry_on=("builtins.OSError", "a.B"))
    assert hash(policy) == hash(Retry(retry_on={"a.B", OSError}))


@given(policies())
@example(Retry(attempts=MAX_ATTEMPTS, base=MAX_DELAY, factor=1e6, cap=MAX_DELAY))
def test_a_policy_comes_back_from_its_bytes(policy: Retry) -> None:
    assert Retry.load(policy.dump()) == policy


@given(policies(), st.data())
def test_bytes_cut_short_are_refused(policy: Retry, data: st.DataObject) -> None:
    whole = policy.dump()
    with pytest.raises(InvalidOption):
        Retry.load(whole[: data.draw(st.integers(0, len(whole) - 1))])


parts = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
messages = st.lists(parts, min_size=6, max_size=8).map(msgpack.packb)


@given(st.binary(max_size=64) | messages)
@example(b"\x91" * 5_000)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xd7\xff" + b"\xff" * 8)
def test_foreign_bytes_are_a_sound_policy_or_refused(data: bytes) -> None:
    try:
        policy = Retry.load(data)
    except InvalidOption:
        return
    assert policy.base <= policy.delay(5, Random(0)) <= policy.cap
    assert Retry.load(policy.dump()) == policy


def test_a_policy_has_room_for_many_rules_and_no_more() -> None:
    names = [f"pkg.E{number}" for number in range(MAX_RULES)]
    policy = Retry(retry_on=names, give_up_on=names)
    assert Retry.load(policy.dump()) == policy
    with pytest.raises(InvalidOption, match="up to 1000 rules"):
        Retry(retry_on=[*names, "pkg.Other"])
    with pytest.raises(InvalidOption, match="up to 65536 bytes"):
        Retry(retry_on=["a." + "x" * MAX_STORED]).dump()


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\x00\x00\xff\xff" * 1_000 + b"\xc0" * 60_000,
        b"\xdc\x03\xe8" * 1_000 + b"\xc0" * 60_000,
        b"\xdc\x03\xe8" + b"\x80" * 1_000,
        b"\xc0" * (MAX_STORED + 1),
        b"\xdd\x00\xa0\x00\x00" + b"\x80" * (10 << 20),
    ],
)
def test_bombs_cost_little_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidOption):
            Retry.load(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20

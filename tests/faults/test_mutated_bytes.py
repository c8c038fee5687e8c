"""Bytes that were sound once: whatever is read of them is a value, or an error of sitq."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from sitq import ErrorInfo, MsgpackSerializer, Retry
from sitq.errors import InvalidOption, NotSerializable
from sitq.failure import describe, pack_error, unpack_error
from sitq.serialization import pack, pack_arguments, unpack, unpack_arguments

serializer = MsgpackSerializer()
WHAT = "the arguments of pkg.f"
leaves = st.sampled_from(
    [
        None,
        True,
        2**70,
        -1.5,
        "text \ud800",
        b"bytes",
        datetime(2024, 3, 31, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        datetime(2024, 1, 1, tzinfo=UTC),
        timedelta(days=-1, seconds=5),
        Decimal("1.50"),
        Fraction(1, 3),
        1j,
        UUID(int=5),
        Path("a/b"),
    ]
)
keys = st.sampled_from(["a", "b", 1, 2.5, (1, 2), frozenset({1})])
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.sets(st.integers(0, 9), max_size=4)
    ),
    max_leaves=12,
)
policies = st.builds(
    Retry,
    attempts=st.integers(1, 9),
    base=st.floats(0, 10),
    cap=st.floats(10, 1_000),
    jitter=st.booleans(),
    retry_on=st.none() | st.lists(st.sampled_from(["OSError", "pkg.mod.Lost"])),
)


@st.composite
def errors(draw: st.DrawFn) -> BaseException:
    error: BaseException = ValueError(draw(st.text(max_size=20)))
    for text in draw(st.lists(st.text(max_size=9), max_size=3)):
        outer = ExceptionGroup(text or "many", [KeyError(text), OSError(5, text)])
        outer.add_note(text)
        outer.__cause__ = error
        error = outer
    return error


FAULTS = ("flip", "cut", "lose", "double", "splice")


@st.composite
def mutated(draw: st.DrawFn, sound: st.SearchStrategy[bytes]) -> bytes:
    """One or more faults: bits flipped, ends cut off, parts lost, doubled, or of another value."""
    data = bytearray(draw(sound))
    for fault in draw(st.lists(st.sampled_from(FAULTS), min_size=1)):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 40)))
        if fault == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif fault == "cut":
            del data[at:]
        elif fault == "lose":
            del data[at:to]
        elif fault == "double":
            data[at:at] = data[at:to]
        elif fault == "splice":
            data[at:to] = draw(sound)[: draw(st.integers(0, 60))]
    return bytes(data)


def packed_arguments(args: list[Any]) -> bytes:
    return pack_arguments(serializer, args, {"a": 1}, WHAT)


@given(mutated(st.lists(values, max_size=3).map(packed_arguments)))
def test_arguments_are_read_or_refused(data: bytes) -> None:
    with suppress(NotSerializable):
        args, kwargs = unpack_arguments(serializer, data, WHAT)
        assert type(args) is tuple
        assert {type(name) for name in kwargs} <= {str}


@given(mutated(values.map(lambda value: pack(serializer, value, WHAT))))
def test_values_are_read_or_refused(data: bytes) -> None:
    try:
        value = unpack(serializer, data, WHAT)
    except NotSerializable:
        return
    again = pack(serializer, value, WHAT)
    assert pack(serializer, unpack(serializer, again, WHAT), WHAT) == again


@given(mutated(errors().map(lambda error: pack_error(describe(error)))))
def test_errors_are_read_whatever_they_hold(data: bytes) -> None:
    info = unpack_error(data)
    assert type(info) is ErrorInfo
    assert unpack_error(pack_error(info)) == info


@given(mutated(policies.map(Retry.dump)), st.integers(1, 20))
def test_policies_are_sound_or_refused(data: bytes, failed: int) -> None:
    with suppress(InvalidOption):
        policy = Retry.load(data)
        assert policy.retries(failed, frozenset({"builtins.OSError"})) in (True, False)
        assert policy.base <= policy.delay(failed, Random(0)) <= policy.cap

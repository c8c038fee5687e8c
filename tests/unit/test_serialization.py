"""What goes in comes out, equal and of the same type, or is refused with the path of the value."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import socket
import struct
import subprocess
import sys
import threading
import tracemalloc
import types
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum, auto
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any, ClassVar, NamedTuple
from zoneinfo import ZoneInfo, available_timezones

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sitq.codec import Encoder, pack_native
from sitq.errors import InvalidOption, NotSerializable, RegistrationRefused
from sitq.naming import importable_module_name
from sitq.serialization import (
    MsgpackSerializer,
    Serializer,
    default_serializer,
    pack,
    pack_arguments,
    serializable,
    unpack,
    unpack_arguments,
)

WHAT = "the arguments of pkg.f"


class Color(Enum):
    RED = 1
    BLUE = ("b", 2)


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    YES = "yes"


class Access(Flag):
    READ = auto()
    WRITE = auto()
    RUN = auto()


@dataclass
class Point:
    x: Any
    y: Any = 0
    kind: ClassVar[str] = "point"


@dataclass(frozen=True, slots=True)
class Frozen:
    name: str
    color: Color = Color.RED


@dataclass(kw_only=True)
class Sums:
    parts: list[int]
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = sum(self.parts)


@dataclass
class Doubling:
    """Its ``__post_init__`` changes what it was given."""

    value: int

    def __post_init__(self) -> None:
        self.value *= 2


class Plain:
    pass


class Text(str):
    __slots__ = ()


class Pair(NamedTuple):
    a: int
    b: int


Loose = namedtuple("Loose", "a")

REGISTERED = (Color, Level, Word, Access, Point, Frozen, Sums, Doubling)
serializer = MsgpackSerializer(REGISTERED)
ZONES = sorted(available_timezones())


def same(left: Any, right: Any) -> bool:
    """Equal and of the same types, all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack(">d", left) == struct.pack(">d", right) or (
            left != left and right != right
        )
    if isinstance(left, complex):
        return same(left.real, right.real) and same(left.imag, right.imag)
    if isinstance(left, Decimal):
        return left.as_tuple() == right.as_tuple()
    if isinstance(left, (datetime, time)):
        return (
            left.replace(tzinfo=None) == right.replace(tzinfo=None)
            and left.fold == right.fold
            and same_zone(left.tzinfo, right.tzinfo)
        )
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, (set, frozenset)):
        rest = list(right)
        return len(left) == len(right) and all(
            any(same(item, other) for other in rest) for item in left
        )
    if dataclasses.is_dataclass(left):
        return all(
            same(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left)
        )
    return left == right


def same_zone(left: tzinfo | None, right: tzinfo | None) -> bool:
    return left is right or (
        type(left) is type(right) is timezone and left.__getinitargs__() == right.__getinitargs__()
    )


def round_trip(value: Any) -> Any:
    return serializer.loads(serializer.dumps(value))


text = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
offsets = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59))
zones = st.none() | st.integers(0, len(ZONES) - 1).map(lambda n: ZoneInfo(ZONES[n])) | st.just(UTC)
zones |= offsets.map(timezone) | st.builds(timezone, offsets, text)
times = st.builds(datetime.replace, st.datetimes(), fold=st.integers(0, 1), tzinfo=zones)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**300), 2**300)
    | st.floats()
    | text
    | st.binary(max_size=20)
    | st.dates()
    | times
    | st.builds(time.replace, st.times(), fold=st.integers(0, 1), tzinfo=zones)
    | st.timedeltas()
    | st.decimals()
    | st.fractions()
    | st.complex_numbers()
    | st.uuids()
    | text.map(Path)
    | st.sampled_from([*Color, *Level, *Word, Access.READ | Access.RUN, Access(0)])
)


def is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except (TypeError, OverflowError):
        return False
    return True


hashables = st.recursive(
    leaves.filter(is_hashable),
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.frozensets(inner, max_size=3)
        | st.builds(Frozen, inner, inner)
    ),
    max_leaves=4,
)
values = st.recursive(
    leaves | hashables,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(text, inner, max_size=4)
        | st.dictionaries(hashables, inner, max_size=4)
        | st.sets(hashables, max_size=4)
        | st.builds(Point, inner, inner)
    ),
    max_leaves=12,
)


@given(values)
@example([-0.0, math.nan, math.inf, -math.inf])
@example([2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, -(2**5000)])
@example([1, True, 1.0, Decimal(1), "1", b"1", Level.LOW])
@example({1: "int", "1": "str", b"1": "bytes", None: 0, (1, 2): (3, [4]), 2**70: 5})
@example(["\ud800\udfff", "\x00", {"\udc80": Path("\udc80")}])
@example([Decimal("sNaN"), Decimal("-NaN123"), Decimal("-0E+5"), Decimal("Infinity")])
@example([Decimal("1E+999999999999999999"), Decimal("1." + "0" * 100)])
@example([datetime(2020, 1, 1, tzinfo=timezone(timedelta(0), "UTC"))])
@example([datetime(2020, 1, 1, tzinfo=timezone(timedelta(microseconds=-1)))])
@example([datetime(2023, 10, 29, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))])
@example([datetime.min, datetime.max, timedelta.min, timedelta.max, date.max, time.max])
@example([[], (), {}, set(), frozenset(), [[]], ((),), {(): ()}, {frozenset({()})}])
@example({math.nan: 1, Decimal("NaN"): 2})
def test_what_goes_in_comes_out(value: Any) -> None:
    assert same(round_trip(value), value)


@given(st.lists(values, max_size=4), st.dictionaries(text, values, max_size=4))
def test_arguments_come_out_as_they_went_in(args: list[Any], kwargs: dict[str, Any]) -> None:
    data = pack_arguments(serializer, tuple(args), kwargs, WHAT)
    assert same(unpack_arguments(serializer, data, WHAT), (tuple(args), kwargs))


@given(st.lists(hashables, max_size=6))
def test_the_same_set_always_has_the_same_bytes(items: list[Any]) -> None:
    items = list({repr(item): item for item in items}.values())
    distinct = [item for n, item in enumerate(items) if item == item and item not in items[:n]]
    turned = distinct[::-1]
    assert serializer.dumps(set(distinct)) == serializer.dumps(set(turned))


@pytest.mark.parametrize(
    "value",
    [
        Point(1, Point([1], {2})),
        Frozen("x"),
        Sums(parts=[1, 2]),
        Doubling(3),
        {Frozen("k"): {Frozen("v")}},
        [Color.BLUE, Level.LOW, Word.YES, Access.READ | Access.WRITE],
        {Color.RED: 1, Level.LOW: 2},
    ],
    ids=repr,
)
def test_registered_classes_come_out_equal(value: Any) -> None:
    assert same(round_trip(value), value)


def test_a_field_that_init_does_not_take_is_kept() -> None:
    sums = Sums(parts=[1, 2])
    sums.total = 99
    assert round_trip(sums).total == 99


def test_the_order_of_dicts_is_kept() -> None:
    value = {"b": 1, "a": [2], 3: (4,)}
    assert list(round_trip(value)) == ["b", "a", 3]


def test_zones_are_the_very_same_objects() -> None:
    berlin = round_trip(datetime(2024, 3, 31, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")))
    assert berlin.tzinfo is ZoneInfo("Europe/Berlin")
    assert round_trip(datetime(2024, 1, 1, tzinfo=UTC)).tzinfo is UTC


class OwnZone(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(0)


def loop() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        ((bytearray(b"x"),), {}, "args[0]: bytearray"),
        ((1, memoryview(b"x")), {}, "args[1]: memoryview"),
        ((Text("x"),), {}, "args[0]: "),
        (({"x": socket.socket},), {}, 'args[0]["x"]: type'),
        ((), {"url": {"x": object()}}, 'kwargs["url"]["x"]: object'),
        ((), {"f": len}, 'kwargs["f"]: builtin_function_or_method'),
        (([1, (2, [Pair(1, 2)])],), {}, "args[0][1][1][0]: "),
        ((Loose(1),), {}, "args[0]: "),
        ((OrderedDict(a=1),), {}, "args[0]: collections.OrderedDict"),
        ((defaultdict(int),), {}, "args[0]: collections.defaultdict"),
        ((PurePath("x"),), {}, "args[0]: pathlib"),
        (({"k": {1: Plain()}},), {}, 'args[0]["k"][1]: '),
        (({Decimal(1): Plain()},), {}, "args[0][decimal.Decimal]: "),
        (({1: 1, Plain(): 1},), {}, "args[0].keys()[1]: "),
        (({(1, Plain()): 1},), {}, "args[0].keys()[0][1]: "),
        (({Plain()},), {}, "args[0]{*}: "),
        ((Point(1, Plain()),), {}, "args[0].y: "),
        ((Point(1, [Plain()]),), {}, "args[0].y[0]: "),
        ((datetime(2020, 1, 1, tzinfo=OwnZone()),), {}, "args[0]: its time zone"),
        ((time(1, tzinfo=OwnZone()),), {}, "args[0]: its time zone"),
        ((Fraction(1, 2**40000),), {}, "args[0]: a Fraction"),
        (({"a\n\ud800": Plain()},), {}, 'args[0]["a\\n\\ud800"]: '),
        (({"k" * 99: Plain()},), {}, f'args[0]["{"k" * 40}..."]: '),
        ((loop(),), {}, "args[0][0][0][0][0][0]...[0][0][0]: nested too deep"),
    ],
)
def test_refusals_name_the_path(args: tuple[Any, ...], kwargs: dict[str, Any], path: str) -> None:
    with pytest.raises(NotSerializable) as refused:
        pack_arguments(serializer, args, kwargs, WHAT)
    message = str(refused.value)
    assert message.startswith(f"{WHAT} cannot be stored: {path}")
    assert type(refused.value) is NotSerializable
    assert len(message) < 1000


def test_refusals_of_results_and_plain_values_name_the_path() -> None:
    with pytest.raises(NotSerializable, match=re.escape('of f cannot be stored: result["a"][0]: ')):
        pack(serializer, {"a": [Plain()]}, "the result of f")
    with pytest.raises(NotSerializable, match="stored: result: object would not"):
        pack(serializer, object(), "the result of f")
    with pytest.raises(NotSerializable, match=re.escape("value[1]: ")):
        serializer.dumps([1, Plain()])


def test_refusals_do_not_show_values() -> None:
    class Secret:
        def __repr__(self) -> str:
            return "hunter2"

    with pytest.raises(NotSerializable) as refused:
        pack_arguments(serializer, ("hunter2", {b"hunter2": Secret()}), {}, WHAT)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("member", [*Color, Level.LOW, Word.YES, Access.READ, Frozen("x")])
def test_unregistered_classes_are_refused(member: Any) -> None:
    with pytest.raises(NotSerializable, match="register it"):
        MsgpackSerializer().dumps(member)
    with pytest.raises(NotSerializable, match="no such class is registered"):
        MsgpackSerializer().loads(serializer.dumps(member))


def test_depth_is_capped_both_ways_at_the_same_level() -> None:
    def nested(levels: int) -> Any:
        value: Any = 1
        for n in range(levels):
            value = ([value], (value,), {"k": value}, {1: value}, Point(value, 0))[n % 5]
        return value

    shallow, deep = MsgpackSerializer([Point], max_depth=20), MsgpackSerializer([Point])
    assert same(shallow.loads(shallow.dumps(nested(20))), nested(20))
    with pytest.raises(NotSerializable, match="nested too deep"):
        shallow.dumps(nested(21))
    with pytest.raises(NotSerializable, match="nested too deep"):
        shallow.loads(deep.dumps(nested(21)))


@given(values)
@settings(max_examples=50)
def test_what_a_node_cap_lets_in_it_lets_out(value: Any) -> None:
    big = MsgpackSerializer(REGISTERED, max_nodes=1 << 20)
    # Many scalars, so that the bytes outnumber every cap and all counters run.
    value = [value, "x" * 200]
    for most in (1, 4, 8, 16, 32, 64):
        small = MsgpackSerializer(REGISTERED, max_nodes=most)
        try:
            data = small.dumps(value)
        except NotSerializable:
            continue
        assert same(small.loads(data), big.loads(data))


def stored_or_refused(dump: Callable[..., bytes], *values: Any) -> bytes | str:
    try:
        return dump(*values)
    except NotSerializable as refused:
        return str(refused)


def walked(walk: Encoder, value: Any) -> bytes:
    return pack_native(walk.value(value, 1))


@given(st.lists(values, max_size=20), st.dictionaries(st.text(), values, max_size=2))
@example([], {})
@example([1] * 16, {})
@example([1] * 17, {})
def test_plain_calls_are_packed_as_all_others(args: list[Any], kwargs: dict[str, Any]) -> None:
    call = [args, kwargs]
    for depth, most in ((1, 100), (2, 6), (2, 21), (2, 22), (100, 100_000)):
        packs = MsgpackSerializer(REGISTERED, max_depth=depth, max_nodes=most)
        walk = Encoder(packs._by_type, depth, most)
        assert stored_or_refused(packs.dumps, call) == stored_or_refused(walked, walk, call)


def test_what_looks_like_a_call_is_not_asked() -> None:
    class Undecided:
        def __bool__(self) -> bool:
            raise ValueError("it depends")

    with pytest.raises(NotSerializable, match=re.escape("value[1]: ")):
        MsgpackSerializer().dumps([[1, 2], Undecided()])


def test_nodes_are_capped_both_ways() -> None:
    small, big = MsgpackSerializer(max_nodes=1000), MsgpackSerializer()
    for value in (
        [0] * 2000,
        [[]] * 600,
        [{}] * 600,
        {n: n for n in range(600)},
        {(n,) for n in range(400)},
    ):
        with pytest.raises(NotSerializable, match="more than 1,000 values"):
            small.dumps(value)
        with pytest.raises(NotSerializable, match="more than 1,000 values"):
            small.loads(big.dumps(value))


def test_keys_that_share_their_hash_are_refused_both_ways() -> None:
    modulus = sys.hash_info.modulus
    for value in ({modulus * n: 0 for n in range(2000)}, {modulus * n for n in range(2000)}):
        with pytest.raises(NotSerializable, match="share their hash"):
            serializer.dumps(value)
    pairs = b"".join(serializer.dumps(modulus * n) + b"\xc0" for n in range(2000))
    with pytest.raises(NotSerializable, match="share their hash"):
        serializer.loads(b"\xde" + struct.pack(">H", 2000) + pairs)
    fine = {n: str(n) for n in range(3000)}
    assert round_trip(fine) == fine


def test_size_is_capped_both_ways() -> None:
    small = MsgpackSerializer(max_bytes=10)
    with pytest.raises(NotSerializable, match="103 bytes are more than the 10 allowed; keep"):
        pack(small, b"x" * 101, "the result of f")
    with pytest.raises(NotSerializable, match="11 bytes are more than the 10 allowed"):
        unpack(small, b"\xc0" * 11, "the result of f")
    assert unpack(small, pack(small, b"x" * 8, "r"), "r") == b"x" * 8


@pytest.mark.parametrize(
    "limits",
    [{"max_bytes": 0}, {"max_depth": 0}, {"max_depth": 501}, {"max_nodes": 0}, {"max_nodes": True}],
)
def test_limits_are_checked(limits: dict[str, int]) -> None:
    with pytest.raises(InvalidOption, match="must be a whole number"):
        MsgpackSerializer(**limits)


# Registration.


def test_register_is_a_decorator_that_returns_the_class() -> None:
    own = MsgpackSerializer()

    @own.register
    @dataclass(frozen=True, slots=True)
    class Local:
        x: int

    @own.register
    class Side(Enum):
        LEFT = "left"

    assert dataclasses.is_dataclass(Local)
    assert own.loads(own.dumps([Local(1), Side.LEFT])) == [Local(1), Side.LEFT]


def test_serializable_registers_with_the_default_serializer() -> None:
    @serializable
    @dataclass
    class Here:
        x: int

    assert default_serializer.loads(default_serializer.dumps(Here(1))) == Here(1)


def test_a_class_of_the_same_name_replaces_the_earlier_one() -> None:
    own = MsgpackSerializer()

    def define() -> type[Any]:
        @own.register
        @dataclass
        class Cell:
            x: int

        return Cell

    first, second = define(), define()
    stored = own.dumps(second(1))
    assert type(own.loads(stored)) is second
    with pytest.raises(NotSerializable):
        own.dumps(first(1))
    own.register(second)
    assert type(own.loads(own.dumps(second(1)))) is second


def test_other_classes_are_refused() -> None:
    class Inherits(Point):
        pass

    @dataclass
    class Initial:
        x: int
        seed: InitVar[int]

    for cls in (Plain, int, Pair, Inherits):
        with pytest.raises(RegistrationRefused, match="neither an Enum nor a dataclass"):
            MsgpackSerializer([cls])
    with pytest.raises(RegistrationRefused, match="InitVar"):
        MsgpackSerializer([Initial])


def test_an_enum_whose_value_does_not_lead_back_is_refused() -> None:
    class Odd(Enum):
        A = math.nan
        B = object()

        @classmethod
        def _missing_(cls, value: object) -> Odd:
            return cls.B

    Odd.A._value_ = 7
    own = MsgpackSerializer([Odd])
    with pytest.raises(NotSerializable, match="does not lead back"):
        own.dumps([Odd.A])
    with pytest.raises(NotSerializable, match=re.escape("value[0].value: object")):
        own.dumps([Odd.B])


def test_fields_must_be_those_that_were_stored() -> None:
    def make(**fields: Any) -> type[Any]:
        cls = dataclasses.make_dataclass(
            "Shape", [(name, int, value) for name, value in fields.items()]
        )
        cls.__module__ = "shapes"
        return cls

    old = make(a=1, b=2)
    stored = MsgpackSerializer([old]).dumps(old())
    for new in (make(a=1), make(a=1, b=2, c=3), make(a=1, c=2)):
        with pytest.raises(NotSerializable, match=r"the fields of shapes\.Shape"):
            MsgpackSerializer([new]).loads(stored)


def test_a_class_that_refuses_its_fields_is_not_serializable() -> None:
    @dataclass
    class Positive:
        x: int

        def __post_init__(self) -> None:
            if self.x < 0:
                raise ValueError("negative")

    own = MsgpackSerializer([Positive])
    bad = Positive(1)
    bad.x = -1
    with pytest.raises(NotSerializable, match="ValueError") as refused:
        unpack(own, own.dumps(bad), "the result of f")
    assert isinstance(refused.value.__cause__, ValueError)
    del bad.x
    with pytest.raises(NotSerializable, match="AttributeError"):
        pack(own, bad, "the result of f")


# Names of modules.


@pytest.mark.parametrize(
    ("main", "expected"),
    [
        ({"__file__": "/srv/app/jobs.py", "__spec__": None}, "jobs"),
        (
            {"__spec__": types.SimpleNamespace(name="app.jobs"), "__file__": "/x/jobs.py"},
            "app.jobs",
        ),
        (
            {"__spec__": types.SimpleNamespace(name="__main__"), "__file__": "/x/d/__main__.py"},
            "__main__",
        ),
        ({}, "__main__"),
    ],
)
@pytest.mark.parametrize("name", ["__main__", "__mp_main__"])
def test_the_main_module_gets_its_importable_name(
    monkeypatch: pytest.MonkeyPatch, name: str, main: dict[str, Any], expected: str
) -> None:
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**main))  # type: ignore[arg-type]
    assert importable_module_name(name) == expected
    assert importable_module_name("pkg.mod") == "pkg.mod"


SCRIPT = """
import multiprocessing, sys
from enum import Enum
from sitq.serialization import default_serializer as s, serializable

@serializable
class Color(Enum):
    RED = 1

def check(data):
    assert s.loads(data) is Color.RED and s.dumps(Color.RED) == data, data

if __name__ == "__main__":
    data = s.dumps(Color.RED)
    assert b"script.Color" in data, data
    child = multiprocessing.get_context("spawn").Process(target=check, args=(data,))
    child.start()
    child.join()
    sys.stdout.write(f"{child.exitcode}")
"""


def test_a_script_and_the_children_it_spawns_agree_on_names(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    for command in (["script.py"], ["-m", "script"]):
        ran = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert (ran.stdout, ran.stderr) == ("0", "")


# Serializers of users.


class Json(Serializer):
    def dumps(self, obj: Any) -> bytes:
        return json.dumps(obj).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(data)


class Broken(Serializer):
    max_bytes = 100

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def dumps(self, obj: Any) -> bytes:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def loads(self, data: bytes) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def test_a_custom_serializer_needs_two_methods() -> None:
    data = pack_arguments(Json(), (1, "x"), {"k": [2]}, WHAT)
    assert data == b'[[1, "x"], {"k": [2]}]'
    assert unpack_arguments(Json(), data, WHAT) == ((1, "x"), {"k": [2]})
    assert unpack(Json(), pack(Json(), None, "r"), "r") is None
    with pytest.raises(TypeError):
        Serializer()  # type: ignore[abstract]


def test_errors_of_a_custom_serializer_are_told_without_values() -> None:
    with pytest.raises(NotSerializable, match=r"Json raised TypeError$") as refused:
        pack_arguments(Json(), ({1, 2},), {}, WHAT)
    assert isinstance(refused.value.__cause__, TypeError)
    with pytest.raises(NotSerializable, match=r"cannot be read: .*Json raised json"):
        unpack(Json(), b"{", WHAT)
    for error in (RecursionError(), MemoryError()):
        with pytest.raises(NotSerializable, match=type(error).__name__):
            pack(Broken(error), 1, WHAT)
        with pytest.raises(NotSerializable, match=type(error).__name__):
            unpack(Broken(error), b"", WHAT)
    with pytest.raises(KeyboardInterrupt):
        pack(Broken(KeyboardInterrupt()), 1, WHAT)


def test_its_own_refusals_pass_through() -> None:
    own = NotSerializable("no")
    for call in (lambda: pack(Broken(own), 1, WHAT), lambda: unpack(Broken(own), b"", WHAT)):
        with pytest.raises(NotSerializable) as refused:
            call()
        assert refused.value is own


@pytest.mark.parametrize("answer", ["text", None, bytearray(b"x"), b"x" * 101])
def test_its_answer_must_be_bytes_of_the_right_size(answer: Any) -> None:
    with pytest.raises(NotSerializable, match=r"must be bytes, not|more than the 100 allowed"):
        pack(Broken(answer), 1, WHAT)
    with pytest.raises(NotSerializable, match=r"must be bytes, not|more than the 100 allowed"):
        unpack(Broken(1), answer, WHAT)


@pytest.mark.parametrize("answer", [None, [], [[]], [[], {}, 1], [(), {}], [{}, []], [[], {1: 2}]])
def test_arguments_must_have_their_shape(answer: Any) -> None:
    with pytest.raises(NotSerializable, match="must hold a list of the positional"):
        unpack_arguments(Broken(answer), b"", WHAT)


# Hostile bytes.


def ext(code: int, body: bytes = b"") -> bytes:
    return msgpack.packb(msgpack.ExtType(code, body))


def tagged(code: int, *items: bytes) -> bytes:
    return bytes([0x91 + len(items)]) + ext(code) + b"".join(items)


def leaf(code: int, *parts: Any) -> bytes:
    return ext(code, msgpack.packb(parts))


def packed(value: Any) -> bytes:
    return msgpack.packb(value)


COLOR = packed(f"{Color.__module__}.Color")
FROZEN = packed(f"{Frozen.__module__}.Frozen")

HOSTILE = {
    "empty": b"",
    "truncated list": b"\x92\x01",
    "truncated text": b"\xa5ab",
    "trailing": b"\xc0\xc0",
    "reserved": b"\xc1",
    "bad UTF-8": b"\xa1\xff",
    "depth 2,000": b"\x91" * 2000 + b"\xc0",
    "depth 1,000": b"\x91" * 1000 + b"\xc0",
    "depth 101": b"\x91" * 101 + b"\xc0",
    "depth of maps": b"\x81\xc0" * 101 + b"\xc0",
    "depth of tuples": (b"\x92" + ext(32)) * 101 + b"\xc0",
    "nested extensions": ext(9, ext(9, ext(9))),
    "false list length": b"\xdd\xff\xff\xff\xff",
    "false map length": b"\xdf\xff\xff\xff\xff",
    "false text length": b"\xdb\xff\xff\xff\xff",
    "false bytes length": b"\xc6\xff\xff\xff\xff",
    "false extension length": b"\xc9\xff\xff\xff\xff\x02",
    "unknown extension": ext(99, b"x"),
    "empty unknown extension": ext(99),
    "negative extension": ext(-5 & 127, b"x"),
    "timestamp": b"\xd6\xff\x00\x00\x00\x01",
    "timestamp in a list": b"\x91\xd6\xff\x00\x00\x00\x01",
    "timestamp overflow": b"\xc7\x0c\xff" + b"\xff" * 12,
    "timestamp of 3 bytes": b"\xc7\x03\xff\x00\x00\x00",
    "doubled keys": b"\x82\xa1a\x01\xa1a\x02",
    "doubled equal keys": b"\x82\x01\x01\xc3\x02",
    "doubled tagged keys": tagged(35, b"\x01", b"\x01", b"\x01", b"\x02"),
    "doubled set items": tagged(33, b"\x01", b"\x01"),
    "list as key": b"\x81\x90\x01",
    "map as key": b"\x81\x80\x01",
    "tag as key": b"\x81" + ext(32) + b"\x01",
    "tag as value": b"\x81\x01" + ext(32),
    "tag alone": ext(32),
    "tag twice": b"\x92" + ext(32) + ext(32),
    "tag in second place": b"\x92\x01" + ext(32),
    "tag with a body": b"\x91" + ext(32, b"x"),
    "list in a set": tagged(33, b"\x90"),
    "list as tagged key": tagged(35, b"\x90", b"\x01"),
    "odd map": tagged(35, b"\x01"),
    "enum without a name": tagged(36),
    "enum without a value": tagged(36, COLOR),
    "enum with two values": tagged(36, COLOR, b"\x01", b"\x01"),
    "enum value unknown": tagged(36, COLOR, b"\x63"),
    "enum name of another type": tagged(36, b"\x01", b"\x01"),
    "enum name unhashable": tagged(36, b"\x90", b"\x01"),
    "enum named as an importable": tagged(36, packed("os.system"), packed("true")),
    "enum that is a dataclass": tagged(36, FROZEN, b"\x01"),
    "dataclass that is an enum": tagged(37, COLOR, packed("name"), packed("x")),
    "dataclass of the library": tagged(37, packed("sitq.model.Task")),
    "dataclass without fields": tagged(37, FROZEN),
    "dataclass with a field too many": tagged(
        37, FROZEN, *map(packed, ("name", 1, "color", 2, "__class__", 3))
    ),
    "dataclass with a field twice": tagged(37, FROZEN, *map(packed, ("name", 1, "name", 2))),
    "dataclass with an odd field": tagged(37, FROZEN, packed("name")),
    "dataclass with a field of bytes": tagged(37, FROZEN, *map(packed, (b"name", 1, "color", 2))),
    "Decimal that is none": leaf(2, "x"),
    "Decimal with spaces": leaf(2, " 1_0 "),
    "Decimal of bytes": leaf(2, b"1"),
    "Decimal too wide": leaf(2, "1e" + "9" * 100),
    "Decimal without text": leaf(2),
    "body that is no message": ext(2, b"\xc1"),
    "body that is a scalar": ext(2, b"\x01"),
    "body that is empty": ext(2),
    "body that trails": ext(2, packed(["1"]) + b"\xc0"),
    "body that is long": leaf(7, *range(17)),
    "body with an extension": ext(2, b"\x91" + ext(2, b"1")),
    "Fraction by zero": leaf(3, b"\x01", b"\x00"),
    "Fraction of text": leaf(3, "1", "2"),
    "Fraction too large": leaf(3, b"\x01" * 5000, b"\x03"),
    "complex of text": leaf(4, "x", 1),
    "UUID too short": leaf(5, b"x"),
    "UUID of text": leaf(5, "x" * 16),
    "Path of a number": leaf(6, 1),
    "date overflow": leaf(7, 10000, 1, 1),
    "date of floats": leaf(7, 1.0, 1, 1),
    "date huge": leaf(7, 2**63, 1, 1),
    "time overflow": leaf(8, 25, 0, 0, 0, 0),
    "time too short": leaf(8, 1),
    "datetime overflow": leaf(9, 2020, 13, 1, 0, 0, 0, 0, 0),
    "datetime too short": leaf(9, 2020, 1, 1),
    "fold of 2": leaf(9, 2020, 1, 1, 0, 0, 0, 0, 2),
    "offset of a day": leaf(9, 2020, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0),
    "offset short": leaf(9, 2020, 1, 1, 0, 0, 0, 0, 0, 1, 0, b""),
    "zone by path": leaf(9, 2020, 1, 1, 0, 0, 0, 0, 0, "../../etc/passwd"),
    "zone absolute": leaf(9, 2020, 1, 1, 0, 0, 0, 0, 0, "/etc/localtime"),
    "zone of a number": leaf(9, 2020, 1, 1, 0, 0, 0, 0, 0, 1),
    "zone of a list": leaf(9, 2020, 1, 1, 0, 0, 0, 0, 0, []),
    "timedelta overflow": leaf(10, 10**10, 0, 0),
    "timedelta of nan": leaf(10, math.nan, 0, 0),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(NotSerializable) as refused:
        unpack(serializer, data, WHAT)
    assert str(refused.value).startswith(f"{WHAT} cannot be read: ")
    assert len(str(refused.value)) < 500
    with pytest.raises(NotSerializable):
        serializer.loads(b"\x92" + packed("x" * 2000) + data)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        value = serializer.loads(data)
    except NotSerializable:
        return
    assert same(round_trip(value), value)


@given(values, st.data())
def test_bytes_with_a_fault_are_read_or_refused(value: Any, data: st.DataObject) -> None:
    stored = bytearray(serializer.dumps([value]))
    at = data.draw(st.integers(0, len(stored) - 1))
    stored[at] = data.draw(st.integers(0, 255))
    with suppress(NotSerializable):
        serializer.loads(bytes(stored))


MEGABYTE = (1 << 20) - 5
BOMBS = {
    "empty maps": b"\xdd" + struct.pack(">I", MEGABYTE) + b"\x80" * MEGABYTE,
    "empty lists": b"\xdd" + struct.pack(">I", MEGABYTE) + b"\x90" * MEGABYTE,
    "tuples": b"\xdd" + struct.pack(">I", MEGABYTE // 4) + (b"\x91" + ext(32)) * (MEGABYTE // 4),
    "paths": b"\xdd" + struct.pack(">I", MEGABYTE // 6) + leaf(6, "x") * (MEGABYTE // 6),
    "false lengths": b"\xdd\x00\x0f\x00\x00" * 1000 + b"\xc0" * 900_000,
    "false short lengths": b"\xdc\xff\xff" * 1000 + b"\xc0" * 60_000,
    "false map lengths": b"\xde\xff\xff\xc0" * 1000 + b"\xc0" * 130_000,
    "small false lengths": b"\xdc\x03\x00" * 300,
    "nulls": b"\xdd" + struct.pack(">I", MEGABYTE) + b"\xc0" * MEGABYTE,
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_cost_little_memory(data: bytes) -> None:
    assert len(data) <= serializer.max_bytes
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with pytest.raises(NotSerializable):
            unpack(serializer, data, WHAT)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


watched: list[str] = []
watching = threading.Event()


def watch(event: str, args: tuple[Any, ...]) -> None:
    # An audit hook cannot be taken away again, so it is switched.
    if watching.is_set() and event.split(".")[0] in ("import", "exec", "compile", "open", "os"):
        watched.append(f"{event} {args[:1]}")


def test_hostile_names_reach_no_import_and_no_file() -> None:
    hostile = [
        *HOSTILE.values(),
        *(
            tagged(code, packed(name), b"\xc0")
            for code in (36, 37)
            for name in ("os.system", "../x")
        ),
    ]

    def read_all() -> None:
        for data in hostile:
            with pytest.raises(NotSerializable):
                serializer.loads(data)

    read_all()
    sys.addaudithook(watch)
    watching.set()
    try:
        read_all()
    finally:
        watching.clear()
    assert watched == []


def test_a_list_that_changes_while_it_is_packed_is_refused() -> None:
    @dataclass
    class Shifty:
        items: list[Any]
        last: int = 0

        def __getattribute__(self, name: str) -> Any:
            if name == "last":
                self.items.append((1,))
            return object.__getattribute__(self, name)

    with pytest.raises(NotSerializable, match="TypeError"):
        pack(MsgpackSerializer([Shifty]), Shifty([1]), "the result of f")


def test_threads_may_share_a_serializer() -> None:
    value = [{"k": (n, {n}, Point(n))} for n in range(300)]
    bad: list[Any] = []

    def work() -> None:
        bad.extend(1 for _ in range(20) if not same(round_trip(value), value))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bad == []

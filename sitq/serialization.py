"""Values to bytes and back: what goes in comes out, equal and of the same type, or is refused.

A value is one msgpack message. Scalars, lists and dicts with scalar keys are native; other leaves
are extensions with a flat body; other containers are arrays that begin with an empty extension, the
tag. Bodies hold no messages, so hostile bytes cannot recurse in C. Stored names are looked up as
exact strings among registered classes: they never reach an import, ``getattr`` or ``eval``.
"""

from __future__ import annotations

import inspect
import json
import re
from abc import ABC, abstractmethod
from dataclasses import fields
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Context, Decimal, InvalidOperation
from enum import Enum
from fractions import Fraction
from functools import cache
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

import msgpack  # pyright: ignore[reportMissingTypeStubs]

from sitq.errors import InvalidOption, NotSerializable, RegistrationRefused
from sitq.naming import class_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

__all__ = [
    "MsgpackSerializer",
    "Serializer",
    "default_serializer",
    "pack",
    "pack_arguments",
    "serializable",
    "unpack",
    "unpack_arguments",
]

_msgpack: Any = msgpack  # it ships no types: these four names are all that is used of it
_packb: Callable[..., bytes] = _msgpack.packb
_unpackb: Callable[..., Any] = _msgpack.unpackb
_Unpacker: Callable[..., Any] = _msgpack.Unpacker
_Extension: Any = _msgpack.ExtType

_Class = TypeVar("_Class", bound=type[Any])
_ARGUMENTS: Final = {"[0]": "args", "[1]": "kwargs"}
_DEEPEST: Final = 500  # the C packer nests to 511
_TINY: Final = 1024  # bytes in which false lengths cannot reserve much memory
_FRACTION_PART: Final = 4096  # bytes: reducing a fraction takes quadratic time
_COLLISIONS: Final = 1000  # keys that share a hash: looking them up takes quadratic time


class Serializer(ABC):
    """Turns arguments and results into bytes and back.

    A serializer of your own gives the two methods and nothing more. Whatever they raise is reported
    as `sitq.errors.NotSerializable`.
    """

    max_bytes: int = 1 << 20
    """The most bytes that one packed value may take; a subclass may override it."""

    @abstractmethod
    def dumps(self, obj: Any) -> bytes:
        """The value as bytes; arguments come as ``[list of positional, dict of named]``."""

    @abstractmethod
    def loads(self, data: bytes) -> Any:
        """The value that `dumps` turned into these bytes."""


class _Refused(NotSerializable):
    """Knows where in the value it happened: the path is gathered while unwinding."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []

    def text(self, root: str, roots: Mapping[str, str]) -> str:
        steps = self.path[::-1]
        if roots and steps:
            root = roots[steps.pop(0)]
        if len(steps) > 12:
            steps[6:-3] = ["..."]
        return f"{root}{''.join(steps)}: {self.reason}"

    def __str__(self) -> str:
        return self.text("value", {}) if self.path else self.reason


def pack(serializer: Serializer, obj: Any, what: str) -> bytes:
    """The bytes of a result, checked; ``what`` names it in messages: ``"the result of pkg.f"``.

    Raises:
        NotSerializable: the serializer refused it, or made no bytes or too many.
    """
    return _pack(serializer, obj, what, "result", {})


def pack_arguments(
    serializer: Serializer, args: Sequence[Any], kwargs: Mapping[str, Any], what: str
) -> bytes:
    """The bytes of the arguments of a call; messages say which, such as ``kwargs["url"]["x"]``.

    Raises:
        NotSerializable: as `pack`.
    """
    return _pack(serializer, [list(args), kwargs], what, "arguments", _ARGUMENTS)


def unpack(serializer: Serializer, data: bytes, what: str) -> Any:
    """The value that `pack` turned into these bytes.

    Raises:
        NotSerializable: they are no bytes, too many, or the serializer cannot read them.
    """
    _check_bytes(serializer, data, what, "read")
    try:
        return serializer.loads(data)
    except _Refused as refused:
        raise _failed(what, "read", refused.reason) from refused.__cause__
    except NotSerializable:
        raise
    except Exception as error:
        raise _failed(what, "read", _raised(serializer, error)) from error


def unpack_arguments(
    serializer: Serializer, data: bytes, what: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and named arguments that `pack_arguments` turned into these bytes.

    Raises:
        NotSerializable: the bytes cannot be read, or hold something other than arguments.
    """
    value: Any = unpack(serializer, data, what)
    if cast("Any", type(value)) is list and list(map(type, value)) == [list, dict]:
        args, kwargs = value
        if _NAMES.issuperset(map(type, kwargs)):
            return tuple(args), kwargs
    expected = "a list of the positional arguments and a dict of the named ones"
    raise _failed(what, "read", f"it must hold {expected}")


def _pack(
    serializer: Serializer, obj: Any, what: str, root: str, roots: Mapping[str, str]
) -> bytes:
    try:
        data = serializer.dumps(obj)
    except _Refused as refused:
        raise _failed(what, "stored", refused.text(root, roots)) from None
    except NotSerializable:
        raise
    except Exception as error:
        raise _failed(what, "stored", _raised(serializer, error)) from error
    _check_bytes(serializer, data, what, "stored")
    return data


def _check_bytes(serializer: Serializer, data: object, what: str, done: str) -> None:
    if type(data) is not bytes:
        raise _failed(what, done, f"it must be bytes, not {_type_name(type(data))}")
    if len(data) > serializer.max_bytes:
        raise _failed(
            what,
            done,
            f"{len(data):,} bytes are more than the {serializer.max_bytes:,} allowed; keep the "
            "data elsewhere and pass where it is, or raise max_bytes of the serializer",
        )


def _failed(what: str, done: str, reason: str) -> NotSerializable:
    return NotSerializable(f"{what[:200]} cannot be {done}: {reason}")


def _raised(serializer: Serializer, error: Exception) -> str:
    return f"{_type_name(type(serializer))} raised {_type_name(type(error))}"


def _type_name(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")[-100:]


class _Registered(NamedTuple):
    cls: Callable[..., Any]
    name: str
    init: Mapping[str, bool] | None = None
    """The fields of a dataclass, and whether its ``__init__`` takes them; None for an Enum."""


class MsgpackSerializer(Serializer):
    """Keeps every value as it is: what goes in comes out equal and of the same type, or is refused.

    It takes None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset, datetime, date,
    time, timedelta, Decimal, Fraction, complex, UUID, Path, and registered Enums and dataclasses;
    not their subclasses, which would come back as something else. Threads may share it.

    Args:
        types: Enum and dataclass classes to `register`.
        max_bytes: the most bytes that one packed value may take.
        max_depth: how deep containers may nest, at most 500; arguments take two levels themselves.
        max_nodes: how many values there may be in all; containers and extensions count twice.

    Raises:
        InvalidOption: a limit is outside its range.
        RegistrationRefused: a class in ``types`` is neither an Enum nor a dataclass.
    """

    def __init__(
        self,
        types: Iterable[type[Any]] = (),
        *,
        max_bytes: int = 1 << 20,
        max_depth: int = 100,
        max_nodes: int = 100_000,
    ) -> None:
        given = {"max_bytes": max_bytes, "max_depth": max_depth, "max_nodes": max_nodes}
        for name, figure in given.items():
            high = _DEEPEST if name == "max_depth" else 1 << 32
            if type(figure) is not int or not 1 <= figure <= high:
                raise InvalidOption(f"{name} must be a whole number from 1 to {high}: {figure!r}")
        self.max_bytes: int = max_bytes
        self._limits = (max_depth, max_nodes)
        self._by_type: dict[Any, _Registered] = {}
        self._by_name: dict[Any, _Registered] = {}
        for cls in types:
            self.register(cls)

    def register(self, cls: _Class) -> _Class:
        """Makes the members of an Enum or the instances of a dataclass storable; a decorator.

        Stored values name the class as ``module.qualname``: renaming it makes them unreadable. A
        class registered later under the same name replaces the earlier one.

        Returns:
            The class itself.

        Raises:
            RegistrationRefused: it is neither an Enum nor a dataclass, or has an ``InitVar``.
        """
        found = _inspect(cls)
        if found.name in self._by_name:
            self._by_type.pop(self._by_name[found.name].cls, None)
        self._by_type[cls] = self._by_name[found.name] = found
        return cls

    def dumps(self, obj: Any) -> bytes:
        """The value as bytes.

        Raises:
            NotSerializable: it holds something that would not come back as it is; says where.
        """
        return _pack_native(_Encoder(self._by_type, *self._limits).value(obj, 1))

    def loads(self, data: bytes) -> Any:
        """The value that `dumps` turned into these bytes, which may be hostile.

        Raises:
            NotSerializable: `dumps` did not write them, or a class in them is not registered here.
        """
        try:
            return _Decoder(self._by_name, *self._limits).read(data)
        except NotSerializable:
            raise
        except Exception as error:
            name = _type_name(type(error))
            raise _Refused(f"damaged, or written by something else ({name})") from error


def _inspect(cls: type[Any]) -> _Registered:
    name = class_name(cls)
    if issubclass(cls, Enum):
        return _Registered(cls, name)
    if "__dataclass_fields__" not in vars(cls):
        advice = "on a dataclass, put this decorator above @dataclass"
        raise RegistrationRefused(f"{name} is neither an Enum nor a dataclass; {advice}")
    init = {field.name: field.init for field in fields(cls)}
    others = vars(cls)["__dataclass_fields__"].keys() - init
    if not others.isdisjoint(inspect.signature(cls.__init__).parameters):
        raise RegistrationRefused(f"{name} has an InitVar, whose value is not kept: use a field")
    return _Registered(cls, name, init)


class _Walk:
    """One way through one value, within the limits of depth and number."""

    __slots__ = ("classes", "deepest", "most", "room")

    def __init__(self, classes: Mapping[Any, _Registered], deepest: int, most: int) -> None:
        self.classes = classes
        self.deepest = deepest
        self.most = self.room = most

    def spend(self, nodes: int) -> None:
        self.room -= nodes
        if self.room < 0:
            raise _Refused(f"more than {self.most:,} values; store fewer, or raise max_nodes")


class _Encoder(_Walk):
    __slots__ = ()

    def value(self, value: Any, depth: int) -> Any:
        kind = cast("Any", type(value))
        if kind in _SCALARS:
            return value
        if kind in _LEAVES:
            self.spend(1)
            return _Extension(_LEAVES[kind].code, _pack_native([*_LEAVES[kind].parts(value)]))
        if depth > self.deepest:
            raise _Refused(_TOO_DEEP)
        if kind is list:
            self.spend(len(value) + 1)
            return self.items(value, depth, "[{}]".format)
        if kind is dict:
            return self.mapping(value, depth)
        if kind in self.classes:
            return self.registered(self.classes[kind], value, depth)
        if kind not in _TAGS:
            raise _Refused(f"{_type_name(kind)} {_UNSUPPORTED}")
        self.spend(len(value) + 2)
        if kind is tuple:
            return [_TAGS[tuple], *self.items(value, depth, "[{}]".format)]
        _check_hashes(value)
        items = self.items(value, depth, "{{*}}".format)
        return [_TAGS[kind], *sorted(items, key=_pack_native)]

    def child(self, value: Any, depth: int, step: str) -> Any:
        try:
            return self.value(value, depth + 1)
        except _Refused as refused:
            refused.path.append(step)
            raise

    def items(self, values: Collection[Any], depth: int, at: Callable[[int], str]) -> Any:
        if _SCALARS.issuperset(map(type, values)):
            return values
        done: list[Any] = []
        try:
            for value in values:
                done.append(self.value(value, depth + 1))  # noqa: PERF401
        except _Refused as refused:
            refused.path.append(at(len(done)))
            raise
        return done

    def mapping(self, value: dict[Any, Any], depth: int) -> Any:
        self.spend(2 * len(value) + 2)
        if not value:
            return value
        _check_hashes(value)
        if _SCALARS.issuperset(map(type, chain(value, value.values()))):
            return value
        keys = self.items(value, depth, ".keys()[{}]".format)
        items = self.items(value.values(), depth, lambda index: _at(list(value)[index]))
        if keys is not value:
            return [_TAGS[dict], *chain.from_iterable(zip(keys, items, strict=True))]
        return dict(zip(value, items, strict=True))

    def registered(self, known: _Registered, value: Any, depth: int) -> list[Any]:
        if known.init is None:
            self.spend(4)
            if known.cls(value.value) is not value:
                raise _Refused(f"the value of this {known.name[-100:]} does not lead back to it")
            return [_TAGS[Enum], known.name, self.child(value.value, depth, ".value")]
        self.spend(2 * len(known.init) + 3)
        flat = [_TAGS[fields], known.name]
        for name in known.init:
            flat += (name, self.child(getattr(value, name), depth, f".{name}"))
        return flat


class _Decoder(_Walk):
    __slots__ = ("containers", "tagged")

    def read(self, data: bytes) -> Any:
        size = len(data)
        if size > _TINY:
            _check_complete(data)
        self.containers = 0
        self.tagged = b"\xff" in data
        value = _unpackb(
            data,
            strict_map_key=False,
            unicode_errors="surrogatepass",
            list_hook=self.raw_list if size > self.deepest else None,
            object_pairs_hook=self.raw_dict,
            ext_hook=self.extension,
        )
        if self.tagged or self.containers > self.deepest:
            return self.value(value, 1)
        return value

    # Called by the C unpacker, innermost first. Fewer bytes or containers than levels are allowed
    # cannot nest too deep; without a tag nor msgpack's timestamp (code 0xff) all is ready then.

    def raw_list(self, items: list[Any]) -> list[Any]:
        self.containers += 1
        self.spend(len(items) + 1)
        return items

    def raw_dict(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        self.containers += 1
        if not pairs:
            self.spend(1)
            return {}
        self.spend(2 * len(pairs) + 1)
        _check_hashes([key for key, _ in pairs])
        return _distinct(dict(pairs), len(pairs))

    def extension(self, code: int, body: bytes) -> Any:
        if code == _BIG_INT:
            return _int(body)
        if code in _TAGGED and not body:
            self.tagged = True
            return _TAGS[_TAGGED[code]]
        self.spend(1)
        if code not in _READERS:
            raise _Refused(f"unknown extension {code}")
        return _READERS[code](*_unpackb(body, **_FLAT))

    # Then the tags are resolved, outermost first.

    def value(self, value: Any, depth: int) -> Any:
        kind = cast("Any", type(value))
        if kind in _READY:
            return value
        if depth > self.deepest:
            raise _Refused(_TOO_DEEP)
        if kind is dict and _READY.issuperset(map(type, value)):
            return {key: self.value(item, depth + 1) for key, item in value.items()}
        if kind is not list:
            raise _Refused("a tag stands where a value should")
        if _READY.issuperset(map(type, value)):
            return value
        if type(value[0]) is not _Extension:
            return [self.value(item, depth + 1) for item in value]
        items = [self.value(item, depth + 1) for item in value[1:]]
        return self.rebuilt(_TAGGED[value[0].code], items)

    def rebuilt(self, kind: Any, items: list[Any]) -> Any:
        if kind is tuple:
            return tuple(items)
        if kind is dict:
            return _mapping(items[::2], items[1::2])
        if kind is set or kind is frozenset:
            _check_hashes(items)
            return _distinct(kind(items), len(items))
        name, *parts = items
        known = self.classes.get(name)
        if known is None or (kind is Enum) is not (known.init is None):
            shown = json.dumps(name[-100:])
            raise _Refused(f"no such class is registered with the serializer here: {shown}")
        if known.init is None:
            (value,) = parts
            return known.cls(value)
        return _rebuilt(known, known.init, _mapping(parts[::2], parts[1::2]))


def _rebuilt(known: _Registered, init: Mapping[str, bool], given: dict[str, Any]) -> Any:
    if given.keys() != init.keys():
        raise _Refused(f"the fields of {known.name[-100:]} are not those that were stored")
    made = known.cls(**{name: given[name] for name, taken in init.items() if taken})
    for name, value in given.items():
        # Also those that __init__ took, as __post_init__ may have changed them a second time.
        object.__setattr__(made, name, value)
    return made


def _check_complete(data: bytes) -> None:
    """Skips through without building anything: lists are reserved by lengths that may be false."""
    unpacker = _Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    unpacker.skip()


def _check_hashes(keys: Collection[Any]) -> None:
    if len(keys) > _COLLISIONS and len(keys) - len(set(map(hash, keys))) > _COLLISIONS:
        raise _Refused(f"more than {_COLLISIONS:,} keys of one dict or set share their hash")


def _mapping(keys: list[Any], values: list[Any]) -> dict[Any, Any]:
    _check_hashes(keys)
    return _distinct(dict(zip(keys, values, strict=True)), len(keys))


def _distinct(made: Any, expected: int) -> Any:
    if len(made) != expected:
        raise _Refused("doubled keys")
    return made


def _at(key: object) -> str:
    """A key in a path: short, in printable ASCII, and nothing but text and whole numbers shown."""
    if type(key) is str:
        return f"[{json.dumps(key if len(key) <= 40 else key[:40] + '...')}]"
    return f"[{key if type(key) is int and abs(key) < 1 << 64 else _type_name(type(key))}]"


def _pack_native(value: Any) -> bytes:
    # Strict, should a list change under our hands: nothing but the checked types gets through.
    return _packb(value, default=_big_int, strict_types=True, unicode_errors="surrogatepass")


def _big_int(value: object) -> Any:
    if type(value) is not int:
        raise TypeError(f"changed while it was packed: {_type_name(type(value))}")
    return _Extension(_BIG_INT, _int_bytes(value))


def _int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _int(body: bytes) -> int:
    return int.from_bytes(body, "big", signed=True)


# Leaves: the code of each type, its parts, and what makes it of its parts again.


class _Leaf(NamedTuple):
    code: int
    parts: Callable[[Any], Sequence[Any]]
    read: Callable[..., object]


def _text(value: object) -> list[str]:
    return [str(value)]


def _uuid_parts(value: UUID) -> list[bytes]:
    return [value.bytes]


def _uuid(body: bytes) -> UUID:
    return UUID(bytes=body)


def _decimal(text: str) -> Decimal:
    if not _DECIMAL.fullmatch(text):
        raise _Refused("no Decimal")
    return Decimal(text, _STRICT)


def _fraction_parts(value: Fraction) -> list[bytes]:
    parts = [_int_bytes(value.numerator), _int_bytes(value.denominator)]
    if max(map(len, parts)) > _FRACTION_PART:
        raise _Refused(f"a Fraction of more than {_FRACTION_PART:,} bytes above or below its line")
    return parts


def _fraction(above: bytes, below: bytes) -> Fraction:
    if max(len(above), len(below)) > _FRACTION_PART:
        raise _Refused("a Fraction that is too large")
    return Fraction(_int(above), _int(below))


def _time_parts(value: time) -> list[Any]:
    return [*_clock(value), value.fold, *_zone_parts(value.tzinfo)]


def _time(*parts: Any) -> time:
    return time(*parts[:4], tzinfo=_zone(parts[5:]), fold=parts[4])


def _datetime_parts(value: datetime) -> list[Any]:
    return [*_day(value), *_clock(value), value.fold, *_zone_parts(value.tzinfo)]


def _datetime(*parts: Any) -> datetime:
    return datetime(*parts[:7], tzinfo=_zone(parts[8:]), fold=parts[7])


def _zone_parts(zone: tzinfo | None) -> Sequence[Any]:
    if zone is None:
        return ()
    if type(zone) is ZoneInfo and zone.key in _zone_keys():
        return (zone.key,)
    if type(zone) is timezone:
        # What pickle asks for: the offset, and the name if one was given.
        named: Any = zone
        offset, *name = named.__getinitargs__()
        return (*_duration(offset), *name)
    kind = _type_name(type(zone))
    raise _Refused(f"its time zone ({kind}) is neither a datetime.timezone nor a ZoneInfo by key")


def _zone(parts: Sequence[Any]) -> tzinfo | None:
    if not parts:
        return None
    if len(parts) > 1:
        return timezone(timedelta(*parts[:3]), *parts[3:])
    if parts[0] not in _zone_keys():
        raise _Refused("a time zone that this system does not know")
    return ZoneInfo(parts[0])


@cache
def _zone_keys() -> frozenset[str]:
    # A key becomes the path of a file: only listed ones get that far.
    return frozenset(available_timezones())


_STRICT: Final = Context(traps=[InvalidOperation])
_DECIMAL: Final = re.compile(r"-?([0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?|Infinity|s?NaN[0-9]*)")
_FLAT: Final[Mapping[str, Any]] = {
    "max_array_len": 16,
    "max_map_len": 0,
    "max_ext_len": 0,
    "unicode_errors": "surrogatepass",
}
_day: Final = attrgetter("year", "month", "day")
_clock: Final = attrgetter("hour", "minute", "second", "microsecond")
_duration: Final = attrgetter("days", "seconds", "microseconds")
_BIG_INT: Final = 1
_LEAVES: Final[Mapping[type, _Leaf]] = {
    Decimal: _Leaf(2, _text, _decimal),
    Fraction: _Leaf(3, _fraction_parts, _fraction),
    complex: _Leaf(4, attrgetter("real", "imag"), complex),
    UUID: _Leaf(5, _uuid_parts, _uuid),
    type(Path()): _Leaf(6, _text, Path),
    date: _Leaf(7, _day, date),
    time: _Leaf(8, _time_parts, _time),
    datetime: _Leaf(9, _datetime_parts, _datetime),
    timedelta: _Leaf(10, _duration, timedelta),
}
_READERS: Final = {leaf.code: leaf.read for leaf in _LEAVES.values()}
_TAGGED: Final[Mapping[int, Any]] = {
    32: tuple,
    33: set,
    34: frozenset,
    35: dict,
    36: Enum,
    37: fields,  # a dataclass
}
_TAGS: Final[Mapping[Any, Any]] = {kind: _Extension(code, b"") for code, kind in _TAGGED.items()}
_NAMES: Final = frozenset({str})
_TOO_DEEP: Final = "nested too deep, or holding itself; store less, or raise max_depth"
_UNSUPPORTED: Final = (
    "would not come back as it is; convert it to a supported type, or if it is an Enum or a "
    "dataclass, register it with @serializable"
)
_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
_READY: Final = _SCALARS | _LEAVES.keys()

default_serializer: Final = MsgpackSerializer()
"""The serializer that a queue uses unless it is given another one."""

serializable: Final = default_serializer.register
"""Registers an Enum or dataclass with `default_serializer`; a decorator."""

"""A value as msgpack-native structures and back: the walk and its caps."""

from __future__ import annotations

import json
from dataclasses import fields
from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgpack  # pyright: ignore[reportMissingTypeStubs]

from sitq.leaves import LEAVES, READERS, Refused, int_bytes, int_from, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

__all__ = [
    "PLAIN_NODES",
    "SCALARS",
    "Decoder",
    "Encoder",
    "Registered",
    "is_plain_call",
    "pack_native",
]

# A value is one msgpack message. Scalars, lists and dicts with scalar keys are native; other leaves
# are extensions with a flat body; other containers are arrays that begin with an empty extension,
# the tag. Bodies hold no messages, so hostile bytes cannot recurse in C. Stored names are looked up
# as exact strings among registered classes: they never reach an import, ``getattr`` or ``eval``.

_msgpack: Any = msgpack  # it ships no types: these four names are all that is used of it
_packb: Callable[..., bytes] = _msgpack.packb
_unpackb: Callable[..., Any] = _msgpack.unpackb
_Unpacker: Callable[..., Any] = _msgpack.Unpacker
_Extension: Any = _msgpack.ExtType

_TINY: Final = 1024  # bytes in which false lengths cannot reserve much memory
_COLLISIONS: Final = 1000  # keys that share a hash: looking them up takes quadratic time


class Registered(NamedTuple):
    cls: Callable[..., Any]
    name: str
    init: Mapping[str, bool] | None = None
    """The fields of a dataclass, and whether its ``__init__`` takes them; None for an Enum."""


class _Walk:
    """One way through one value, within the limits of depth and number."""

    __slots__ = ("classes", "deepest", "most", "room")

    def __init__(self, classes: Mapping[Any, Registered], deepest: int, most: int) -> None:
        self.classes: Mapping[Any, Registered] = classes
        self.deepest: int = deepest
        self.most: int = most
        self.room: int = most

    def spend(self, nodes: int) -> None:
        self.room -= nodes
        if self.room < 0:
            raise Refused(f"more than {self.most:,} values; store fewer, or raise max_nodes")


class Encoder(_Walk):
    __slots__ = ()

    def value(self, value: Any, depth: int) -> Any:
        kind = cast("Any", type(value))
        if kind in SCALARS:
            return value
        if kind in LEAVES:
            self.spend(1)
            return _Extension(LEAVES[kind].code, pack_native([*LEAVES[kind].parts(value)]))
        if depth > self.deepest:
            raise Refused(_TOO_DEEP)
        if kind is list:
            self.spend(len(value) + 1)
            return self.items(value, depth, "[{}]".format)
        if kind is dict:
            return self.mapping(value, depth)
        if kind in self.classes:
            return self.registered(self.classes[kind], value, depth)
        if kind not in _TAGS:
            raise Refused(f"{type_name(kind)} {_UNSUPPORTED}")
        self.spend(len(value) + 2)
        if kind is tuple:
            return [_TAGS[tuple], *self.items(value, depth, "[{}]".format)]
        _check_hashes(value)
        items = self.items(value, depth, "{{*}}".format)
        return [_TAGS[kind], *sorted(items, key=pack_native)]

    def child(self, value: Any, depth: int, step: str) -> Any:
        try:
            return self.value(value, depth + 1)
        except Refused as refused:
            refused.path.append(step)
            raise

    def items(self, values: Collection[Any], depth: int, at: Callable[[int], str]) -> Any:
        if SCALARS.issuperset(map(type, values)):
            return values
        done: list[Any] = []
        try:
            for value in values:
                done.append(self.value(value, depth + 1))  # noqa: PERF401
        except Refused as refused:
            refused.path.append(at(len(done)))
            raise
        return done

    def mapping(self, value: dict[Any, Any], depth: int) -> Any:
        self.spend(2 * len(value) + 2)
        if not value:
            return value
        _check_hashes(value)
        if SCALARS.issuperset(map(type, chain(value, value.values()))):
            return value
        keys = self.items(value, depth, ".keys()[{}]".format)
        items = self.items(value.values(), depth, lambda index: _at(list(value)[index]))
        if keys is not value:
            return [_TAGS[dict], *chain.from_iterable(zip(keys, items, strict=True))]
        return dict(zip(value, items, strict=True))

    def registered(self, known: Registered, value: Any, depth: int) -> list[Any]:
        if known.init is None:
            self.spend(4)
            if known.cls(value.value) is not value:
                raise Refused(f"the value of this {known.name[-100:]} does not lead back to it")
            return [_TAGS[Enum], known.name, self.child(value.value, depth, ".value")]
        self.spend(2 * len(known.init) + 3)
        flat = [_TAGS[fields], known.name]
        for name in known.init:
            flat += (name, self.child(getattr(value, name), depth, f".{name}"))
        return flat


class Decoder(_Walk):
    __slots__ = ("containers", "tagged")

    def read(self, data: bytes) -> Any:
        size = len(data)
        if size > _TINY:
            _check_complete(data)
        self.containers: int = 0
        self.tagged: bool = b"\xff" in data
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
            return int_from(body)
        if code in _TAGGED and not body:
            self.tagged = True
            return _TAGS[_TAGGED[code]]
        self.spend(1)
        if code not in READERS:
            raise Refused(f"unknown extension {code}")
        return READERS[code](*_unpackb(body, **_FLAT))

    # Then the tags are resolved, outermost first.

    def value(self, value: Any, depth: int) -> Any:
        kind = cast("Any", type(value))
        if kind in _READY:
            return value
        if depth > self.deepest:
            raise Refused(_TOO_DEEP)
        if kind is dict and _READY.issuperset(map(type, value)):
            return {key: self.value(item, depth + 1) for key, item in value.items()}
        if kind is not list:
            raise Refused("a tag stands where a value should")
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
            raise Refused(f"no such class is registered with the serializer here: {shown}")
        if known.init is None:
            (value,) = parts
            return known.cls(value)
        return _rebuilt(known, known.init, _mapping(parts[::2], parts[1::2]))


def _rebuilt(known: Registered, init: Mapping[str, bool], given: dict[str, Any]) -> Any:
    if given.keys() != init.keys():
        raise Refused(f"the fields of {known.name[-100:]} are not those that were stored")
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
        raise Refused(f"more than {_COLLISIONS:,} keys of one dict or set share their hash")


def _mapping(keys: list[Any], values: list[Any]) -> dict[Any, Any]:
    _check_hashes(keys)
    return _distinct(dict(zip(keys, values, strict=True)), len(keys))


def _distinct(made: Any, expected: int) -> Any:
    if len(made) != expected:
        raise Refused("doubled keys")
    return made


def _at(key: object) -> str:
    """A key in a path: short, in printable ASCII, and nothing but text and whole numbers shown."""
    if type(key) is str:
        return f"[{json.dumps(key if len(key) <= 40 else key[:40] + '...')}]"
    return f"[{key if type(key) is int and abs(key) < 1 << 64 else type_name(type(key))}]"


def is_plain_call(value: Any) -> bool:
    """Whether these are the arguments of a usual call: a few scalars, none by name.

    They are packed as they are; to walk through them takes three times as long.
    """
    if type(value) is not list or len(cast("list[Any]", value)) != 2:
        return False
    args, kwargs = cast("list[Any]", value)
    return (
        type(args) is list
        and len(cast("list[Any]", args)) <= _FEW
        and type(kwargs) is dict
        and not kwargs
        and SCALARS.issuperset(map(type, cast("list[Any]", args)))
    )


def pack_native(value: Any) -> bytes:
    # Strict, should a list change under our hands: nothing but the checked types gets through.
    return _packb(value, default=_big_int, strict_types=True, unicode_errors="surrogatepass")


def _big_int(value: object) -> Any:
    if type(value) is not int:
        raise TypeError(f"changed while it was packed: {type_name(type(value))}")
    return _Extension(_BIG_INT, int_bytes(value))


_FEW: Final = 16
PLAIN_NODES: Final = _FEW + 6
"""Values that a plain call has at most, as an `Encoder` counts."""
_FLAT: Final[Mapping[str, Any]] = {
    "max_array_len": 16,
    "max_map_len": 0,
    "max_ext_len": 0,
    "unicode_errors": "surrogatepass",
}
_BIG_INT: Final = 1
_TAGGED: Final[Mapping[int, Any]] = {
    32: tuple,
    33: set,
    34: frozenset,
    35: dict,
    36: Enum,
    37: fields,  # a dataclass
}
_TAGS: Final[Mapping[Any, Any]] = {kind: _Extension(code, b"") for code, kind in _TAGGED.items()}
_TOO_DEEP: Final = "nested too deep, or holding itself; store less, or raise max_depth"
_UNSUPPORTED: Final = (
    "would not come back as it is; convert it to a supported type, or if it is an Enum or a "
    "dataclass, register it with @serializable"
)
SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
_READY: Final = SCALARS | LEAVES.keys()

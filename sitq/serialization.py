"""Values to bytes and back: what goes in comes out, equal and of the same type, or is refused.

`sitq.codec` has the format.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from sitq.codec import (
    PLAIN_NODES,
    SCALARS,
    Decoder,
    Encoder,
    Registered,
    is_plain_call,
    pack_native,
)
from sitq.errors import InvalidOption, NotSerializable, RegistrationRefused
from sitq.leaves import Refused, type_name
from sitq.naming import class_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "MsgpackSerializer",
    "Serializer",
    "default_serializer",
    "max_bytes",
    "pack",
    "pack_arguments",
    "serializable",
    "unpack",
    "unpack_arguments",
]

_Class = TypeVar("_Class", bound=type[Any])
_ARGUMENTS: Final = {"[0]": "args", "[1]": "kwargs"}
_DEEPEST: Final = 500  # the C packer nests to 511


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


def max_bytes(serializer: Serializer) -> int:
    """The most bytes that one packed value may take."""
    return getattr(serializer, "max_bytes", Serializer.max_bytes)  # it need not be a subclass


def unpack(serializer: Serializer, data: bytes | None, what: str) -> Any:
    """The value that `pack` turned into these bytes.

    Raises:
        NotSerializable: they are no bytes, too many, or the serializer cannot read them.
    """
    if data is None:
        most = max_bytes(serializer)
        reason = f"it is missing, is no bytes, or has more than the {most:,} allowed"
        raise _failed(what, "read", reason)
    _check_bytes(serializer, data, what, "read")
    try:
        return serializer.loads(data)
    except Refused as refused:
        raise _failed(what, "read", refused.reason) from refused.__cause__
    except NotSerializable:
        raise
    except Exception as error:
        raise _failed(what, "read", _raised(serializer, error)) from error


def unpack_arguments(
    serializer: Serializer, data: bytes | None, what: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and named arguments that `pack_arguments` turned into these bytes.

    Raises:
        NotSerializable: the bytes cannot be read, or hold something other than arguments.
    """
    value: Any = unpack(serializer, data, what)
    if cast("Any", type(value)) is list and len(value) == 2:
        args, kwargs = cast("tuple[Any, Any]", value)
        kinds: Any = type(args), type(kwargs)
        if kinds == _ARGUMENT_KINDS and _NAMES.issuperset(map(type, kwargs)):
            return tuple(args), kwargs
    expected = "a list of the positional arguments and a dict of the named ones"
    raise _failed(what, "read", f"it must hold {expected}")


def _pack(
    serializer: Serializer, obj: Any, what: str, root: str, roots: Mapping[str, str]
) -> bytes:
    try:
        data = serializer.dumps(obj)
    except Refused as refused:
        raise _failed(what, "stored", refused.text(root, roots)) from None
    except NotSerializable:
        raise
    except Exception as error:
        raise _failed(what, "stored", _raised(serializer, error)) from error
    _check_bytes(serializer, data, what, "stored")
    return data


def _check_bytes(serializer: Serializer, data: object, what: str, done: str) -> None:
    if type(data) is not bytes:
        raise _failed(what, done, f"it must be bytes, not {type_name(type(data))}")
    most = max_bytes(serializer)
    if len(data) > most:
        raise _failed(
            what,
            done,
            f"{len(data):,} bytes are more than the {most:,} allowed; keep the "
            "data elsewhere and pass where it is, or raise max_bytes of the serializer",
        )


def _failed(what: str, done: str, reason: str) -> NotSerializable:
    return NotSerializable(f"{what[:200]} cannot be {done}: {reason}")


def _raised(serializer: Serializer, error: Exception) -> str:
    return f"{type_name(type(serializer))} raised {type_name(type(error))}"


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
        self._takes_plain_calls = max_depth >= 2 and max_nodes >= PLAIN_NODES
        self._by_type: dict[Any, Registered] = {}
        self._by_name: dict[Any, Registered] = {}
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
        if obj is None:  # most results
            return _NONE
        if type(obj) in SCALARS or (self._takes_plain_calls and is_plain_call(obj)):
            return pack_native(obj)
        return pack_native(Encoder(self._by_type, *self._limits).value(obj, 1))

    def loads(self, data: bytes) -> Any:
        """The value that `dumps` turned into these bytes, which may be hostile.

        Raises:
            NotSerializable: `dumps` did not write them, or a class in them is not registered here.
        """
        try:
            return Decoder(self._by_name, *self._limits).read(data)
        except NotSerializable:
            raise
        except Exception as error:
            name = type_name(type(error))
            raise Refused(f"damaged, or written by something else ({name})") from error


def _inspect(cls: type[Any]) -> Registered:
    name = class_name(cls)
    if issubclass(cls, Enum):
        return Registered(cls, name)
    if "__dataclass_fields__" not in vars(cls):
        advice = "on a dataclass, put this decorator above @dataclass"
        raise RegistrationRefused(f"{name} is neither an Enum nor a dataclass; {advice}")
    init = {field.name: field.init for field in fields(cls)}
    others = vars(cls)["__dataclass_fields__"].keys() - init
    if not others.isdisjoint(inspect.signature(cls.__init__).parameters):
        raise RegistrationRefused(f"{name} has an InitVar, whose value is not kept: use a field")
    return Registered(cls, name, init)


_NONE: Final = pack_native(None)
_NAMES: Final = frozenset({str})
_ARGUMENT_KINDS: Final = (list, dict)

default_serializer: Final = MsgpackSerializer()
"""The serializer that a queue uses unless it is given another one."""

serializable: Final = default_serializer.register
"""Registers an Enum or dataclass with `default_serializer`; a decorator."""

"""Values without parts: how each type is written and read, and how one is refused."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from sitq.errors import NotSerializable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["LEAVES", "READERS", "Refused", "int_bytes", "int_from", "type_name"]

_FRACTION_PART: Final = 4096  # bytes: reducing a fraction takes quadratic time


class Refused(NotSerializable):
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


def type_name(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")[-100:]


def int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def int_from(body: bytes) -> int:
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
        raise Refused("no Decimal")
    return Decimal(text, _STRICT)


def _fraction_parts(value: Fraction) -> list[bytes]:
    parts = [int_bytes(value.numerator), int_bytes(value.denominator)]
    if max(map(len, parts)) > _FRACTION_PART:
        raise Refused(f"a Fraction of more than {_FRACTION_PART:,} bytes above or below its line")
    return parts


def _fraction(above: bytes, below: bytes) -> Fraction:
    if max(len(above), len(below)) > _FRACTION_PART:
        raise Refused("a Fraction that is too large")
    return Fraction(int_from(above), int_from(below))


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
    kind = type_name(type(zone))
    raise Refused(f"its time zone ({kind}) is neither a datetime.timezone nor a ZoneInfo by key")


def _zone(parts: Sequence[Any]) -> tzinfo | None:
    if not parts:
        return None
    if len(parts) > 1:
        return timezone(timedelta(*parts[:3]), *parts[3:])
    if parts[0] not in _zone_keys():
        raise Refused("a time zone that this system does not know")
    return ZoneInfo(parts[0])


@cache
def _zone_keys() -> frozenset[str]:
    # A key becomes the path of a file: only listed ones get that far.
    return frozenset(available_timezones())


_STRICT: Final = Context(traps=[InvalidOperation])
_DECIMAL: Final = re.compile(r"-?([0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?|Infinity|s?NaN[0-9]*)")
_day: Final = attrgetter("year", "month", "day")
_clock: Final = attrgetter("hour", "minute", "second", "microsecond")
_duration: Final = attrgetter("days", "seconds", "microseconds")
LEAVES: Final[Mapping[type, _Leaf]] = {
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
READERS: Final = {leaf.code: leaf.read for leaf in LEAVES.values()}

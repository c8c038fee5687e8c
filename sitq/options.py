"""The options of a call: what each takes, checked where it is given.

Every check returns the value, or raises `sitq.errors.InvalidOption` with what the option takes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TypeVar, cast

from sitq.errors import InvalidOption
from sitq.naming import shown
from sitq.retry import Retry

__all__ = [
    "UNCHANGED",
    "Executor",
    "Options",
    "check_amount",
    "check_backend",
    "check_child",
    "check_connection",
    "check_executor",
    "check_key",
    "check_moment",
    "check_name",
    "check_note",
    "check_priority",
    "check_queues",
    "check_retry",
    "check_seconds",
    "check_serializer",
    "check_timeout",
    "check_whole",
    "is_key",
    "is_name",
    "is_note",
]

T = TypeVar("T")

_NAME = re.compile(r"\w[\w:-]*(?:\.[\w:-]+)*")
MAX_NAME = 255
MAX_KEY = 512
MAX_NOTE = 500
LONGEST = 36_525 * 86_400.0
"""Seconds of a hundred years: no time is further ahead, no span longer."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Executor(StrEnum):
    """Where a plain function is called."""

    THREAD = "thread"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class Options:
    """How calls of a task function are stored and run. Times are in seconds.

    ``retry`` and ``timeout`` are those of the declaration, which a worker takes from its own
    registry; ``call_retry`` and ``call_timeout`` were set for a call and travel with it.
    ``executor`` is that of the declaration too; None where none was named.
    """

    queue: str = "default"
    priority: int = 0
    retry: Retry | None = None
    timeout: float | None = None
    call_retry: Retry | None = None
    call_timeout: float | None = None
    delay: float | None = None
    run_at: datetime | None = None
    key: str | None = None
    deadline: datetime | None = None
    child: str | None = None
    connection: object | None = field(default=None, hash=False)  # it need not have a hash
    executor: Executor | None = None


class _Unchanged:
    """The default of an option for which None is a value."""

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = _Unchanged()


def is_name(value: str) -> bool:
    """Whether `check_name` takes it."""
    return len(value) <= MAX_NAME and _NAME.fullmatch(value) is not None


def is_key(value: str) -> bool:
    """Whether `check_key` takes it."""
    return 0 < len(value) <= MAX_KEY and not _CONTROL.search(value)


def is_note(value: str) -> bool:
    """Whether `check_note` gives it back as it is."""
    return len(value) <= MAX_NOTE and not _CONTROL.search(value)


def check_name(what: str, value: object) -> str:
    """A name of a function or queue: words joined by dots, up to 255 characters.

    Raises:
        InvalidOption: it is none.
    """
    if isinstance(value, str) and is_name(value):
        return value
    raise InvalidOption(
        f"a {what} name is made of letters, digits, '_', '-', ':' and single dots, "
        f"up to {MAX_NAME} characters: {shown(value)}"
    )


def check_queues(value: object) -> tuple[str, ...] | None:
    """Names of queues, one at least; None is all queues."""
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidOption(f"queues takes a list of names, such as [{shown(value)}]")
    names = tuple(check_name("queue", name) for name in cast("Iterable[object]", value))
    if not names:
        raise InvalidOption("queues must name a queue at least; None serves all")
    return names


def check_key(value: object) -> str:
    """A unique key: text of up to 512 characters, without control characters.

    Raises:
        InvalidOption: it is none.
    """
    if isinstance(value, str) and is_key(value):
        return value
    raise InvalidOption(
        f"a key is text of 1 to {MAX_KEY} characters without control characters: {shown(value)}"
    )


def check_child(value: object) -> str:
    """A name of a task in its group: like a key, but not beginning with ``#``.

    Raises:
        InvalidOption: it is none.
    """
    if isinstance(value, str) and is_key(value) and not value.startswith("#"):
        return value
    raise InvalidOption(
        f"child is text of 1 to {MAX_KEY} characters without control characters, not beginning "
        f"with '#': {shown(value)}"
    )


def check_connection(value: object) -> object | None:
    """A connection to a database, as far as can be seen without the store; or None."""
    its_methods = (getattr(value, name, None) for name in ("cursor", "execute"))
    if value is None or all(map(callable, its_methods)):
        return value
    raise InvalidOption(
        f"connection must be one to the database, such as sqlite3.connect(path): {shown(value)}"
    )


def check_priority(value: object) -> int:
    """A priority: a whole number from -100 to 100."""
    return check_whole("priority", value, -100, 100)


def check_timeout(value: object) -> float:
    """A timeout: seconds above 0, `math.inf` for no limit."""
    if value == math.inf:
        return math.inf
    if value == 0:
        raise InvalidOption("timeout must be above 0 seconds; math.inf is no limit")
    return check_seconds("timeout", value)


def check_amount(name: str, value: object, *, may_be_0: bool = False) -> float:
    """How much there is of something: a finite number above 0, or from 0."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with suppress(OverflowError):  # of an int that no float comes near to
            amount = float(value)
            if 0 < amount < math.inf or (amount == 0 and may_be_0):
                return amount
    least = "from 0" if may_be_0 else "above 0"
    raise InvalidOption(f"{name} must be a finite number {least}: {shown(value)}")


def check_note(value: object) -> str:
    """A few words on one line: the first 500 characters, with spaces for control characters."""
    if not isinstance(value, str):
        raise InvalidOption(f"note must be text: {shown(value)}")
    kept = value[:MAX_NOTE]
    return _CONTROL.sub(" ", _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", kept))


def check_seconds(name: str, value: object, least: float = 0.0) -> float:
    """A span of time: seconds from ``least``, up to a hundred years."""
    if (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and least <= value <= LONGEST
    ):
        return float(value)
    raise InvalidOption(
        f"{name} must be a number of seconds from {least:g}, up to 100 years: {shown(value)}"
    )


def check_whole(name: str, value: object, low: int, high: int) -> int:
    """A whole number in a range."""
    if type(value) is int and low <= value <= high:
        return value
    raise InvalidOption(f"{name} must be a whole number from {low} to {high}: {shown(value)}")


def check_moment(name: str, value: object) -> datetime:
    """A point in time: a datetime with a time zone, from 1970 to a hundred years from now."""
    if not isinstance(value, datetime):
        raise InvalidOption(f"{name} must be a datetime: {shown(value)}")
    if value.utcoffset() is None:
        raise InvalidOption(
            f"{name} must have a time zone, such as datetime.now(timezone.utc): {shown(value)}"
        )
    since_1970 = (value - EPOCH).total_seconds()
    if not 0 <= since_1970 <= (datetime.now(UTC) - EPOCH).total_seconds() + LONGEST:
        raise InvalidOption(f"{name} must be from 1970 to 100 years from now: {shown(value)}")
    return value


def check_executor(value: object) -> Executor:
    """An executor: ``"thread"`` or ``"process"``.

    Raises:
        InvalidOption: it is none.
    """
    if value in tuple(Executor):
        return Executor(value)
    raise InvalidOption(f"executor must be 'thread' or 'process': {shown(value)}")


def check_retry(value: object) -> Retry | None:
    """A retry policy, or None."""
    if value is None or isinstance(value, Retry):
        return value
    raise InvalidOption(f"retry must be a Retry, such as Retry(attempts=5): {shown(value)}")


def check_backend(value: T) -> T:
    """A store of tasks: something with the verbs of a backend."""
    if callable(getattr(value, "insert", None)) and callable(getattr(value, "reserve", None)):
        return value
    raise InvalidOption(f"backend must be a store such as SQLiteBackend(path): {shown(value)}")


def check_serializer(value: T) -> T:
    """A serializer: something with ``dumps`` and ``loads``."""
    if callable(getattr(value, "dumps", None)) and callable(getattr(value, "loads", None)):
        return value
    raise InvalidOption(f"serializer must have the methods dumps and loads: {shown(value)}")

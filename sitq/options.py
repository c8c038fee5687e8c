"""The options of a call: what each takes, checked where it is given.

Every check returns the value, or raises `sitq.errors.InvalidOption` with what the option takes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sitq.errors import InvalidOption
from sitq.retry import Retry

__all__ = [
    "Options",
    "check_delay",
    "check_key",
    "check_moment",
    "check_name",
    "check_priority",
    "check_retry",
    "check_timeout",
]

_NAME = re.compile(r"\w[\w:-]*(?:\.[\w:-]+)*")
MAX_NAME = 255
MAX_KEY = 512
HORIZON = timedelta(days=36_525)
"""How far ahead a task can be put off: a hundred years."""


@dataclass(frozen=True, slots=True)
class Options:
    """How calls of a task function are stored and run. Times are in seconds.

    ``retry`` and ``timeout`` are those of the declaration, which a worker takes from its own
    registry; ``call_retry`` and ``call_timeout`` were set for a call and travel with it.
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


def check_name(what: str, value: object) -> str:
    """A name of a function or queue: words joined by dots, up to 255 characters.

    Raises:
        InvalidOption: it is none.
    """
    if isinstance(value, str) and len(value) <= MAX_NAME and _NAME.fullmatch(value):
        return value
    raise InvalidOption(
        f"a {what} name is made of letters, digits, '_', '-', ':' and single dots, "
        f"up to {MAX_NAME} characters: {value!r:.80}"
    )


def check_key(value: object) -> str:
    """A unique key: printable text of up to 512 characters.

    Raises:
        InvalidOption: it is none.
    """
    if isinstance(value, str) and 0 < len(value) <= MAX_KEY and value.isprintable():
        return value
    raise InvalidOption(f"a key is printable text of 1 to {MAX_KEY} characters: {value!r:.80}")


def check_priority(value: object) -> int:
    """A priority: a whole number from -100 to 100."""
    if type(value) is int and -100 <= value <= 100:
        return value
    raise InvalidOption(f"priority must be a whole number from -100 to 100: {value!r:.80}")


def check_timeout(value: object) -> float:
    """A timeout: seconds above 0, `math.inf` for no limit."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
        return float(value)
    raise InvalidOption(f"timeout must be a number of seconds above 0: {value!r:.80}")


def check_delay(value: object) -> float:
    """A delay: seconds from 0, up to a hundred years."""
    if (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 <= value <= HORIZON.total_seconds()
    ):
        return float(value)
    raise InvalidOption(f"delay must be a number of seconds from 0, up to 100 years: {value!r:.80}")


def check_moment(name: str, value: object) -> datetime:
    """A point in time: a datetime with a time zone, within a hundred years."""
    if not isinstance(value, datetime):
        raise InvalidOption(f"{name} must be a datetime: {value!r:.80}")
    if value.utcoffset() is None:
        raise InvalidOption(
            f"{name} must have a time zone, such as datetime.now(timezone.utc): {value!r:.80}"
        )
    if value - datetime.now(UTC) > HORIZON:
        raise InvalidOption(f"{name} must be within 100 years: {value!r:.80}")
    return value


def check_retry(value: object) -> Retry | None:
    """A retry policy, or None."""
    if value is None or isinstance(value, Retry):
        return value
    raise InvalidOption(f"retry must be a Retry, such as Retry(attempts=5): {value!r:.80}")

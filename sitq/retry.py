"""When a task that failed runs again: a pure policy, from attempts and exception to a delay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias

import msgpack  # pyright: ignore[reportMissingTypeStubs]

from sitq.errors import InvalidOption, TaskFailed
from sitq.model import ErrorInfo
from sitq.naming import class_name, shown

__all__ = ["NO_RETRY", "Retry", "type_names"]

ExceptionRule: TypeAlias = type[BaseException] | str

_msgpack: Any = msgpack  # it ships no types

MAX_DELAY = 366 * 86_400.0
"""No retry is put off for longer than this many seconds."""

MAX_ATTEMPTS = 2**31 - 1
"""What every store can count to."""

MAX_RULES = 1_000
"""Names in ``retry_on``, and in ``give_up_on``: a list that is read is reserved by its length."""

MAX_STORED = 64 * 1024
"""Bytes that a stored policy may take."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a task is run again after it failed or timed out, and how long it waits in between.

    The delay after ``n`` failed runs is drawn evenly from ``base`` to ``base * factor ** n``, but
    not above ``cap``: exponential backoff with full jitter, see Marc Brooker, "Exponential Backoff
    And Jitter", AWS Architecture Blog, 2015. Other than there, ``base`` is kept as a floor, so that
    no failure is retried at once. Without jitter it is ``base * factor ** (n - 1)``.

    Args:
        attempts: how many runs a task gets in all, the first one included; at least 1.
        base: the shortest delay, in seconds.
        factor: by how much the ceiling of the delay grows with each attempt; at least 1.
        cap: the longest delay, in seconds.
        jitter: False draws nothing: tasks that failed together return together.
        retry_on: exception classes, or their qualified names (``"module.Name"``), that are retried.
            Subclasses count. Default: every exception.
        give_up_on: exceptions that are never retried; stronger than ``retry_on``.

    Raises:
        InvalidOption: a figure is outside its range, or a rule is not an exception class or name.
    """

    attempts: int = 3
    base: float = 1.0
    factor: float = 2.0
    cap: float = 600.0
    jitter: bool = True
    retry_on: Iterable[ExceptionRule] | None = None
    give_up_on: Iterable[ExceptionRule] = ()
    _retry_on: frozenset[str] | None = field(init=False, repr=False)
    _give_up_on: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if type(self.attempts) is not int or not 1 <= self.attempts <= MAX_ATTEMPTS:
            raise InvalidOption(
                f"attempts must be a whole number from 1 to {MAX_ATTEMPTS}: {shown(self.attempts)}"
            )
        if type(self.jitter) is not bool:
            raise InvalidOption(f"jitter must be True or False: {shown(self.jitter)}")
        for name, low, high in (
            ("base", 0.0, MAX_DELAY),
            ("factor", 1.0, 1e6),
            ("cap", self.base, MAX_DELAY),
        ):
            _check_number(name, getattr(self, name), low, high)
        put = object.__setattr__
        put(self, "_retry_on", None if self.retry_on is None else _names(self.retry_on))
        put(self, "_give_up_on", _names(self.give_up_on))
        put(self, "retry_on", None if self._retry_on is None else tuple(sorted(self._retry_on)))
        put(self, "give_up_on", tuple(sorted(self._give_up_on)))

    def retries(self, attempts: int, types: Set[str]) -> bool:
        """Whether a task runs again after ``attempts`` runs, the last ended by such an exception.

        Args:
            attempts: runs that have failed so far.
            types: names of the exception's classes, as `type_names` gives them.
        """
        if attempts >= self.attempts or not self._give_up_on.isdisjoint(types):
            return False
        return self._retry_on is None or not self._retry_on.isdisjoint(types)

    def dump(self) -> bytes:
        """The policy as bytes, for a task that carries its own.

        Raises:
            InvalidOption: its names take more than 64 KiB.
        """
        figures = (self.attempts, self.base, self.factor, self.cap, self.jitter)
        data = _msgpack.packb((*figures, self.retry_on, self.give_up_on))
        if len(data) > MAX_STORED:
            raise InvalidOption(f"a policy takes up to {MAX_STORED} bytes, not {len(data)}")
        return data

    @classmethod
    def load(cls, data: bytes) -> Retry:
        """The policy that `dump` wrote.

        Raises:
            InvalidOption: the bytes are not such a policy.
        """
        try:
            if len(data) > MAX_STORED:
                raise ValueError(f"it has {len(data)} bytes")
            parts = _msgpack.unpackb(data, max_array_len=MAX_RULES, max_map_len=0, max_ext_len=0)
            attempts, base, factor, cap, jitter, retry_on, give_up_on = parts
            return cls(attempts, base, factor, cap, jitter, retry_on, give_up_on)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise InvalidOption(f"the stored retry policy cannot be read: {error}") from None

    def delay(self, attempts: int, rng: Random) -> float:
        """Seconds to wait after ``attempts`` failed runs."""
        if not self.jitter:
            return self._grown(attempts - 1)
        return rng.uniform(self.base, self._grown(attempts))

    def _grown(self, times: int) -> float:
        try:
            # A power of whole numbers would grow to millions of digits before it overflows.
            return min(self.cap, self.base * float(self.factor) ** times)
        except OverflowError:
            return self.cap if self.base else 0.0


def type_names(error: BaseException) -> frozenset[str]:
    """The qualified names of the classes of an exception, and of its members if it is a group.

    What made another task fail counts by its name: `sitq.errors.TaskFailed` holds it as data.
    """
    names: set[str] = set()
    pending, seen = [error], set[int]()
    while pending:
        one = pending.pop()
        if id(one) not in seen:
            seen.add(id(one))
            names.update(_class_names(type(one)))
            if issubclass(type(one), BaseExceptionGroup):
                pending.extend(_members(one))
            if type(one) is TaskFailed and one.result.error is not None:
                names.update(_remote_names(one.result.error))
    return frozenset(names)


def _remote_names(error: ErrorInfo) -> Iterator[str]:
    yield error.type
    for member in error.members:
        yield from _remote_names(member)
    if error.type == _TASK_FAILED and error.cause is not None:  # by what another task raised
        yield from _remote_names(error.cause)


def _members(group: BaseException) -> tuple[BaseException, ...]:
    """What the group holds, whatever a subclass makes of ``exceptions``."""
    return BaseExceptionGroup.exceptions.__get__(group)  # pyright: ignore


def _class_names(cls: type) -> list[str]:
    return [class_name(base) for base in cls.__mro__ if base is not object]


def _names(rules: Iterable[ExceptionRule] | ExceptionRule) -> frozenset[str]:
    if isinstance(rules, (str, type)):
        return frozenset([_name(rules)])
    if not isinstance(rules, Iterable):
        raise _refused_rule(rules)
    names = frozenset(map(_name, rules))
    if len(names) > MAX_RULES:
        raise InvalidOption(f"retry_on and give_up_on take up to {MAX_RULES} rules: {len(names)}")
    return names


def _name(rule: ExceptionRule) -> str:
    if isinstance(rule, str) and rule and rule.isprintable():
        return rule if "." in rule else f"builtins.{rule}"
    if isinstance(rule, type) and issubclass(rule, BaseException):
        return class_name(rule)
    raise _refused_rule(rule)


def _refused_rule(rule: object) -> InvalidOption:
    return InvalidOption(
        f"retry_on and give_up_on take exception classes or their names: {shown(rule)}"
    )


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InvalidOption(f"{name} must be a number from {low:g} to {high:g}: {shown(value)}")


_TASK_FAILED = class_name(TaskFailed)
NO_RETRY = Retry(attempts=1)

"""Calls as they are stored: checked against their functions, packed, and given ids."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

from sitq.clock import to_microsecond
from sitq.errors import InvalidOption
from sitq.model import NewTask
from sitq.naming import shown
from sitq.registry import Call, check_registered
from sitq.serialization import Serializer, pack_arguments

__all__ = ["checked_calls", "common_connection", "new_ids", "new_tasks", "refuse_children"]

R = TypeVar("R")

MAX_CALLS = 100_000
"""Calls that are stored at one go: more would hold the lock of the store for long."""


def checked_calls(calls: Iterable[Call[R]]) -> list[Call[R]]:
    """The calls that were given to ``enqueue_many``.

    Raises:
        InvalidOption: something among them is not a call, or there are too many.
        NotRegistered: a function was not registered.
        InvalidArguments: arguments do not fit a signature.
    """
    checked: list[Call[R]] = []
    if not isinstance(calls, Iterable):
        raise InvalidOption(f"enqueue_many takes a list of calls, not {shown(calls)}")
    for call in calls:
        if not isinstance(call, Call):
            raise InvalidOption(
                f"enqueue_many takes calls such as fetch.call(...), not {type(call).__name__}"
            )
        check_registered(call.function).check(call.args, call.kwargs)
        checked.append(call)
        if len(checked) > MAX_CALLS:
            raise InvalidOption(
                f"more than {MAX_CALLS} calls are too many for one transaction; "
                "enqueue them in chunks"
            )
    return checked


def refuse_children(calls: Sequence[Call[Any]]) -> None:
    """Refuse calls that are for a group.

    Raises:
        InvalidOption: one names a child.
    """
    for call in calls:
        if call.function.options.child is not None:
            raise InvalidOption("child names a task of a group; enqueue it in one")


def common_connection(calls: Sequence[Call[Any]]) -> object | None:
    """The connection through which these calls are stored; None for the store's own.

    Raises:
        InvalidOption: they do not all have the same.
    """
    first = calls[0].function.options.connection if calls else None
    for call in calls:
        if call.function.options.connection is not first:
            raise InvalidOption(
                "calls that are enqueued together are stored through one connection: give all of "
                "them the same, or none"
            )
    return first


def new_tasks(
    calls: Sequence[Call[Any]],
    serializer: Serializer,
    now: float,
    run_at: float | None = None,
    deadline: float | None = None,
) -> list[NewTask]:
    """What is to be stored of these calls.

    Args:
        calls: the calls.
        serializer: packs their arguments.
        now: the wall clock, in seconds.
        run_at: when they may run that do not say so; default: now.
        deadline: when they fail at the latest.

    Raises:
        NotSerializable: an argument cannot be stored.
    """
    soonest = now if run_at is None else run_at
    ids = new_ids(now, len(calls))
    return [
        _new_task(call, id, now, soonest, deadline, serializer)
        for id, call in zip(ids, calls, strict=True)
    ]


def _new_task(
    call: Call[Any],
    id: bytes,
    now: float,
    run_at: float,
    deadline: float | None,
    serializer: Serializer,
) -> NewTask:
    function = call.function
    options = function.options
    if options.delay is not None:
        run_at = to_microsecond(now + options.delay)
    elif options.run_at is not None:
        run_at = to_microsecond(options.run_at.timestamp())
    if options.deadline is not None:
        its_own = to_microsecond(options.deadline.timestamp())
        deadline = its_own if deadline is None else min(its_own, deadline)
    return NewTask(
        id,
        function.name,
        options.queue,
        options.priority,
        run_at,
        options.key,
        options.call_timeout,
        deadline,
        None if options.call_retry is None else options.call_retry.dump(),
        pack_arguments(serializer, call.args, call.kwargs, f"the arguments of {function.name}"),
        now,
    )


def new_ids(now: float, number: int) -> list[bytes]:
    """Time-ordered identifiers: UUID version 7, RFC 9562 section 5.7.

    Args:
        now: seconds since 1970-01-01 UTC.
        number: how many.
    """
    time = (int(now * 1000) & 0xFFFF_FFFF_FFFF).to_bytes(6, "big")
    noise = bytearray(os.urandom(10 * number))
    noise[0::10] = noise[0::10].translate(_VERSION)
    noise[2::10] = noise[2::10].translate(_VARIANT)
    rest = bytes(noise)
    return [time + rest[at : at + 10] for at in range(0, 10 * number, 10)]


_VERSION: Final = bytes(7 << 4 | byte & 0xF for byte in range(256))
_VARIANT: Final = bytes(2 << 6 | byte & 0x3F for byte in range(256))

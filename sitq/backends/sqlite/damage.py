"""Rows that sitq cannot have written: damaged, or written by a stranger.

They are shown as far as they can be read, and each fails by itself when a worker meets it: whoever
writes to the file can spoil a task, but not those beside it.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from operator import call
from sqlite3 import Connection
from typing import Any, NamedTuple, cast

from sitq import options
from sitq.backends.sqlite.descent import cancel_below
from sitq.backends.sqlite.queries import ERROR, SQL, number_ends
from sitq.backends.states import STATES
from sitq.errors import TaskDamaged
from sitq.failure import describe, pack_error, unpack_error
from sitq.model import Change, ProgressRow, Reservation, State, TaskRow
from sitq.options import is_key

__all__ = ["LATEST", "MOST", "condemn", "is_name", "is_sound", "mended", "shown"]

logger: logging.Logger = logging.getLogger("sitq.sqlite")

LATEST = 253_402_300_799.0
"""The last second that a datetime has."""
MOST = 2**62
"""More than anything can be counted to."""
_NUMBERS = (float, int)
"""RETURNING gives whole numbers as int, whatever the column is."""
is_name: Callable[[str], bool] = lru_cache(maxsize=1_000)(options.is_name)


class _Field(NamedTuple):
    bears: Callable[[Any], bool]
    instead: Any


def _whole(low: float, high: float, instead: int) -> _Field:
    def bears(value: Any) -> bool:
        return type(value) is int and low <= value <= high

    return _Field(bears, instead)


def _real(low: float, high: float, instead: float) -> _Field:
    def bears(value: Any) -> bool:
        return type(value) in _NUMBERS and low <= value <= high

    return _Field(bears, instead)


def _text(bears_text: Callable[[str], bool]) -> _Field:
    def bears(value: Any) -> bool:
        return type(value) is str and bears_text(value)

    return _Field(bears, "?")


def _bytes(low: int, high: int) -> _Field:
    def bears(value: Any) -> bool:
        return type(value) is bytes and low <= len(value) <= high

    return _Field(bears, bytes(low))


def _or_none(field: _Field) -> _Field:
    def bears(value: Any) -> bool:
        return value is None or field.bears(value)

    return _Field(bears, None)


_COUNT = _whole(0, MOST, 0)
_MOMENT = _real(0.0, LATEST, 0.0)
_NAME = _text(is_name)
_TEXT = _text(lambda text: len(text) < 1 << 20)
_BODY = _or_none(_bytes(0, MOST))
_FIELDS: Mapping[str, _Field] = {
    "seq": _whole(-math.inf, math.inf, 0),
    "id": _bytes(16, 16),
    "name": _NAME,
    "queue": _NAME,
    "state": _whole(0, 4, 3),
    "priority": _whole(-100, 100, 0),
    "key": _or_none(_text(is_key)),
    "fence": _whole(-MOST, MOST, 0),
    "attempts": _COUNT,
    "crashes": _COUNT,
    "epoch": _COUNT,
    "cancel_requested": _whole(0, 1, 0),
    "enqueued": _MOMENT,
    "run_at": _MOMENT,
    "timeout": _or_none(_real(0.0, math.inf, 0.0)),
    "deadline": _or_none(_MOMENT),
    "unknown_since": _or_none(_MOMENT),
    "started": _or_none(_MOMENT),
    "ended": _or_none(_MOMENT),
    "value": _BODY,
    "error": _BODY,
    "group": _or_none(_whole(-math.inf, math.inf, 0)),
    # Of a worker:
    "host": _TEXT,
    "pid": _COUNT,
    "queues": _or_none(_TEXT),
    "concurrency": _COUNT,
    "lease": _real(0.0, LATEST, 0.0),
    "boot": _TEXT,
    "beat": _real(0.0, math.inf, 0.0),
    "stuck": _COUNT,
    "lag": _or_none(_real(0.0, LATEST, 0.0)),
    "held": _COUNT,
}
_AMOUNT = _real(0.0, sys.float_info.max, 0.0)
_TOLD = [
    _AMOUNT.bears,
    _or_none(_real(math.ulp(0.0), sys.float_info.max, 0.0)).bears,
    _text(options.is_note).bears,
    _MOMENT.bears,
]
"""The fields of a `ProgressRow`."""
_ask: Callable[[Callable[[Any], bool], Any], bool] = cast("Any", call)
_ITS_OWN = TaskRow._fields[:-1]
"""Those that stand in the row of the task."""
_SHOWN = [_FIELDS[name].bears for name in _ITS_OWN]
_CONDEMNED = (
    *("id", "name", "queue", "priority", "key", "fence", "attempts", "crashes", "epoch"),
    *("run_at", "timeout", "deadline", "enqueued", "started"),
)
"""In the order of the queries `condemned` and `condemn`."""


def is_sound(task: Reservation) -> bool:
    """Whether a worker can run the task, and settle it. The query sees to policy and arguments.

    As the fields above demand; spelled out, since many tasks that are reserved pass here. What
    `turn.sql` gives is held to the same there.
    """
    row = cast("tuple[Any, ...]", task)
    _, id, name, queue, priority, fence, attempts, crashes, epoch, *times = row
    run_at, timeout, deadline, _, _, enqueued, unknown_since, group = times
    return (
        type(id) is bytes
        and len(id) == 16
        and type(name) is type(queue) is str
        and is_name(name)
        and is_name(queue)
        and type(priority) is type(fence) is type(attempts) is type(crashes) is type(epoch) is int
        and -100 <= priority <= 100
        and -MOST <= fence <= MOST
        and 0 <= attempts <= MOST
        and 0 <= crashes <= MOST
        and 0 <= epoch <= MOST
        and type(run_at) in _NUMBERS
        and 0.0 <= run_at <= LATEST
        and type(enqueued) in _NUMBERS
        and 0.0 <= enqueued <= LATEST
        and (timeout is None or (type(timeout) in _NUMBERS and timeout >= 0.0))
        and (deadline is None or (type(deadline) in _NUMBERS and 0.0 <= deadline <= LATEST))
        and (unknown_since is None or _FIELDS["unknown_since"].bears(unknown_since))
        and (group is None or _FIELDS["group"].bears(group))
    )


def mended(names: Sequence[str], row: Sequence[Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields of a row, and the names of those that had to be replaced."""
    fields = dict(zip(names, row, strict=True))
    bad = [name for name, value in fields.items() if not _FIELDS[name].bears(value)]
    fields.update((name, _FIELDS[name].instead) for name in bad)
    return fields, bad


def shown(row: tuple[Any, ...]) -> TaskRow:
    """What can be read of the row of a task; where that is not all, its error says so."""
    task, told = row[: len(_ITS_OWN)], row[len(_ITS_OWN) :]
    if not all(map(_ask, _SHOWN, task)) or (task[4] >= 2 and task[14] is None):
        task = _patched(task)
    state: State = STATES[int(task[4])]
    return TaskRow._make((*task[:4], state, *task[5:9], bool(task[9]), *task[10:], _told(told)))


def _told(row: tuple[Any, ...]) -> ProgressRow | None:
    """What a task has told; nothing, where it cannot have told that."""
    is_sound = row[0] is not None and all(map(_ask, _TOLD, row))
    return ProgressRow._make(row) if is_sound else None


def _patched(row: tuple[Any, ...]) -> tuple[Any, ...]:
    fields, bad = mended(_ITS_OWN, row)
    if fields["state"] >= 2 and fields["ended"] is None:
        fields["ended"] = 0.0
        bad.append("ended")
    cause = None if fields["error"] is None else unpack_error(fields["error"])
    fields["error"] = pack_error(replace(describe(_damaged(bad)), cause=cause))
    return tuple(fields.values())


def condemn(connection: Connection, seqs: Iterable[int], now: float) -> list[Change]:
    """Fail tasks whose rows are damaged, and mend the rows. Returns what became of them."""
    changes: list[Change] = []
    for seq in seqs:
        row = connection.execute(SQL["condemned"], (seq,)).fetchone()
        if row is not None:
            changes.append(_condemn(connection, seq, row, now))
    cancel_below(connection, [change.seq for change in changes], now)
    return changes


def _condemn(connection: Connection, seq: int, row: Sequence[Any], now: float) -> Change:
    fields, bad = mended(_CONDEMNED, row)
    if "id" in bad:
        fields["id"] = os.urandom(16)
    logger.error("task %s failed: its row is damaged: seq=%d", fields["id"].hex(), seq)
    error = pack_error(describe(_damaged(bad)))
    number = number_ends(connection, 1) + 1
    connection.execute(SQL["condemn"], (*fields.values(), now, number, error, seq))
    connection.execute(SQL["drop_big"], (seq, ERROR))
    return Change(
        seq,
        fields["fence"],
        State.FAILED,
        fields["run_at"],
        fields["attempts"],
        fields["crashes"],
        fields["epoch"],
        error=error,
    )


def _damaged(bad: Sequence[str]) -> TaskDamaged:
    what = ", ".join(bad) or "its columns do not fit together"
    return TaskDamaged(f"the stored row of the task is damaged, or not written by sitq: {what}")

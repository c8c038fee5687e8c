"""The limits of latency: sitq's SQL by hand, where a pipe tells the other process."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from sqlite3 import Connection

from sitq.backends.sqlite.queries import SQL
from tests.benchmarks.child import say, wait_for_word
from tests.benchmarks.limits import hire, reserve_by_hand, settle_by_hand
from tests.benchmarks.pace import WARM, at_a_pace, summary
from tests.benchmarks.processes import companion
from tests.benchmarks.setting import Figures, Setting
from tests.benchmarks.store import connect, create, new_rows

__all__ = [
    "enqueuer",
    "latency_across",
    "latency_here",
    "round_trip_across",
    "round_trip_here",
    "worker",
]


def _enqueue(connection: Connection) -> bytes:
    [row] = new_rows(1, "stamp", (time.monotonic(),))
    connection.execute(SQL["insert"], row)
    return row[0]


def _reserve(connection: Connection, worker: int) -> list[object]:
    connection.execute("BEGIN IMMEDIATE")
    rows = reserve_by_hand(connection, worker, 1)
    connection.execute("COMMIT")
    return rows


def _run(connection: Connection, worker: int) -> None:
    rows = _reserve(connection, worker)
    connection.execute("BEGIN IMMEDIATE")
    settle_by_hand(connection, worker, rows)
    connection.execute("COMMIT")


def _read(connection: Connection, id: bytes) -> None:
    connection.execute(SQL["get"], (1 << 20, id)).fetchone()


def enqueuer(setting: Setting, count: int, pace: float) -> Figures:
    """The companion that inserts, and says when."""
    with closing(connect(setting.path, setting.synchronous)) as connection:
        say("ready")
        wait_for_word()
        for wait in at_a_pace(count, pace):
            time.sleep(wait)
            sent = time.monotonic()
            _enqueue(connection)
            say(repr(sent))
    return {}


def latency_across(setting: Setting, count: int, pace: float) -> Figures:
    """From before an insert in another process until the row is reserved here."""
    seconds: list[float] = []
    with closing(create(setting)) as connection:
        own = hire(connection)
        with companion("waking_by_hand:enqueuer", setting, count=count, pace=pace) as other:
            other.is_ready()
            other.tell("go")
            for _ in range(count + WARM):
                sent = float(other.hear())
                _reserve(connection, own)
                seconds.append(time.monotonic() - sent)
    return summary(seconds)


def latency_here(setting: Setting, count: int, pace: float) -> Figures:
    """The same with one connection."""
    seconds: list[float] = []
    with closing(create(setting)) as connection:
        own = hire(connection)
        for wait in at_a_pace(count, pace):
            time.sleep(wait)
            sent = time.monotonic()
            _enqueue(connection)
            _reserve(connection, own)
            seconds.append(time.monotonic() - sent)
    return summary(seconds)


def worker(setting: Setting) -> Figures:
    """The companion that reserves and settles when it is told that there is a row."""
    with closing(connect(setting.path, setting.synchronous)) as connection:
        own = hire(connection)
        say("ready")
        for _ in sys.stdin:
            _run(connection, own)
            say("done")
    return {}


def round_trip_across(setting: Setting, count: int) -> Figures:
    """From before an insert until the result is read, set by another process."""
    seconds: list[float] = []
    with (
        closing(create(setting)) as connection,
        companion("waking_by_hand:worker", setting) as other,
    ):
        other.is_ready()
        for _ in range(count + WARM):
            started = time.monotonic()
            id = _enqueue(connection)
            other.tell("run")
            other.hear()
            _read(connection, id)
            seconds.append(time.monotonic() - started)
    return summary(seconds)


def round_trip_here(setting: Setting, count: int) -> Figures:
    """The same with one connection."""
    seconds: list[float] = []
    with closing(create(setting)) as connection:
        own = hire(connection)
        for _ in range(count + WARM):
            started = time.monotonic()
            id = _enqueue(connection)
            _run(connection, own)
            _read(connection, id)
            seconds.append(time.monotonic() - started)
    return summary(seconds)

"""Takes back what dead workers hold, and fails what can never run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from sitq.backends.base import Recovered, Sweep
from sitq.backends.silence import Silences, Verdict, Watched
from sitq.backends.sqlite import groups
from sitq.backends.sqlite.damage import condemn, is_sound, mended
from sitq.backends.sqlite.queries import SQL
from sitq.backends.sqlite.settling import settle
from sitq.clock import to_microsecond
from sitq.lifecycle import crashed, expired, forgotten
from sitq.model import Change, Reservation, State, WorkerRecord, WorkerRow

_WORKER = (
    *("host", "pid", "queues", "concurrency", "lease", "started", "boot", "beat", "stuck", "lag"),
    "held",
)
"""In the order of the query `workers`, after the id."""
CHUNK = 500
"""Rows in one statement: SQLite binds at most 32,766 values."""


@cache
def boot_id() -> str:
    """Names the run of this machine's kernel: monotonic times of two boots do not compare."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    import platform  # slow to import, and not needed on Linux

    return platform.node()


def hire(connection: Connection, record: WorkerRecord, now: float, monotonic: float) -> int:
    """Enter a worker. Returns its id."""
    queues = None if record.queues is None else ",".join(record.queues)
    cursor = connection.execute(
        SQL["hire"],
        (
            record.host,
            record.pid,
            queues,
            record.concurrency,
            record.lease,
            now,
            boot_id(),
            monotonic,
        ),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def workers(connection: Connection, monotonic: float) -> list[WorkerRow]:
    """Those that have a lease."""
    boot = boot_id()
    return [_worker_row(row, boot, monotonic) for row in connection.execute(SQL["workers"])]


def _worker_row(row: tuple[Any, ...], boot: str, monotonic: float) -> WorkerRow:
    of, _ = mended(_WORKER, row[1:])
    return WorkerRow(
        row[0],
        of["host"],
        of["pid"],
        None if of["queues"] is None else tuple(of["queues"].split(",") if of["queues"] else ()),
        of["concurrency"],
        of["lease"],
        of["started"] or 0.0,
        max(0.0, monotonic - of["beat"]) if of["boot"] == boot else None,
        of["stuck"],
        of["lag"],
        of["held"],
    )


def beat(
    connection: Connection, worker: int, boot: str, monotonic: float, lag: float | None = None
) -> bool:
    """Renew a lease; None leaves the lag as it is. False if it was taken."""
    values = (monotonic, boot, lag, worker)
    return connection.execute(SQL["beat"], values).fetchone() is not None


def find_unknown(connection: Connection, rules: Sweep) -> list[int]:
    """Pending tasks that the worker does not know and for which no time runs yet."""
    names = json.dumps(rules.unknown)
    return [row[0] for row in connection.execute(SQL["find_unknown"], (names, _queues(rules)))]


def recover(
    connection: Connection,
    worker: int,
    now: float,
    monotonic: float,
    rules: Sweep,
    strangers: Sequence[int],
    asked: float,
    silences: Silences,
) -> Recovered:
    """One sweep: beat, take the dead, suspect the silent, fail what can never run.

    Args:
        strangers: what `find_unknown` found.
        asked: when the worker asked for the sweep, by the monotonic clock.
        silences: kept between the sweeps of the worker.
    """
    boot = boot_id()
    held = beat(connection, worker, boot, monotonic)
    connection.execute(SQL["report"], (rules.stuck, worker))
    crashes: list[Change] = []
    ended: list[Change] = []
    bereaved = False
    for dead in _dead(connection, worker, boot, monotonic, monotonic - asked, silences):
        taken, damaged = _take(connection, dead, now, rules.crash_limit)
        crashes += taken
        ended += damaged
        bereaved |= groups.bereave(connection, dead, now)
        connection.execute(SQL["dismiss"], (dead,))
    connection.executemany(SQL["mark_unknown"], [(now, seq) for seq in strangers])
    connection.execute(SQL["clear_known"], (json.dumps(rules.known), _queues(rules)))
    ended += _fail_all(connection, "expired", now, expired, now)
    bound = to_microsecond(now - rules.unknown_after)
    ended += _fail_all(connection, "forgotten", bound, forgotten, now)
    return Recovered(held, crashes, ended, bereaved)


def _queues(rules: Sweep) -> str | None:
    return None if rules.queues is None else json.dumps(rules.queues)


def _dead(
    connection: Connection,
    worker: int,
    boot: str,
    monotonic: float,
    waited: float,
    silences: Silences,
) -> list[Any]:
    """Whose tasks are to be taken: dead workers, and what is no worker at all."""
    dead = [row[0] for row in connection.execute(SQL["owners_without_lease"])]
    for other, lease, its_boot, beat, suspect, marked in connection.execute(
        SQL["others"], (worker,)
    ).fetchall():
        if not (type(lease) is type(beat) is float and lease > 0):
            dead.append(other)  # a stranger wrote that
            continue
        since = suspect if type(suspect) is float and marked == boot else None
        watched = Watched(other, lease, beat, its_boot == boot, since)
        verdict = silences.judge(watched, monotonic, waited)
        if verdict is Verdict.DEAD:
            dead.append(other)
        elif verdict is Verdict.SUSPECT:
            connection.execute(SQL["suspect"], (monotonic, boot, other))
    return dead


def _take(
    connection: Connection, dead: Any, now: float, crash_limit: int
) -> tuple[list[Change], list[Change]]:
    """Take what a dead worker held. Returns what becomes of the tasks, and of the damaged ones."""
    rows = connection.execute(SQL["held_by"], (dead,)).fetchall()
    changes: list[Change] = []
    for *fields, cancel in rows:
        task = Reservation._make(fields)
        if is_sound(task) and cancel in (0, 1):
            changes.append(crashed(task, crash_limit, cancel_requested=cancel == 1))
    return _settle_all(connection, dead, [row[0] for row in rows], changes, now, State.RUNNING)


def _fail_all(
    connection: Connection,
    query: str,
    bound: float,
    decide: Callable[[Reservation], Change],
    now: float,
) -> list[Change]:
    rows: list[Any] = connection.execute(SQL[query], (bound,)).fetchall()
    changes = [decide(task) for task in map(Reservation._make, rows) if is_sound(task)]
    seqs = [row[0] for row in rows]
    ended, damaged = _settle_all(connection, None, seqs, changes, now, State.PENDING)
    return ended + damaged


def _settle_all(
    connection: Connection,
    worker: Any,
    seqs: Sequence[int],
    changes: Sequence[Change],
    now: float,
    state: State,
) -> tuple[list[Change], list[Change]]:
    """Settle these tasks; condemn those that cannot be. Returns what became of both."""
    settled: set[int] = set()
    for start in range(0, len(changes), CHUNK):
        some = changes[start : start + CHUNK]
        settled |= settle(connection, worker, some, now, state, is_sweep=True).seqs
    damaged = condemn(connection, [seq for seq in seqs if seq not in settled], now)
    return [change for change in changes if change.seq in settled], damaged

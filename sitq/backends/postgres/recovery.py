"""Takes back what dead workers hold, and fails what can never run. One worker sweeps at a time."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sitq.backends.base import Recovered, Sweep
from sitq.backends.postgres import groups
from sitq.backends.postgres.arrays import numbers, texts
from sitq.backends.postgres.driver import Session
from sitq.backends.postgres.queries import Queries
from sitq.backends.postgres.settling import settle
from sitq.backends.silence import Silences, Verdict, Watched
from sitq.lifecycle import crashed, expired, forgotten
from sitq.model import Change, Reservation, State, WorkerRecord, WorkerRow

__all__ = ["Hire", "Recovery", "Times", "beat", "lock_number", "workers"]

CHUNK = 1_000
"""Changes in one statement."""


class Times(NamedTuple):
    """What a clock of one's own says; None takes the server's."""

    now: float | None = None
    monotonic: float | None = None


def lock_number(schema: str, what: str) -> int:
    """The number of an advisory lock: the same for all that use the schema, unlike any other."""
    return zlib.crc32(f"sitq {schema} {what}".encode())


class Hire:
    """Enters a worker, and returns its id: once, although it is called again.

    Args:
        record: what others may know of it.
        times: what a clock of one's own says.
    """

    def __init__(self, record: WorkerRecord, times: Times) -> None:
        queues = None if record.queues is None else texts(record.queues)
        self._values = record._asdict() | {"queues": queues} | times._asdict()
        self._id: int | None = None

    def __call__(self, session: Session, sql: Queries) -> int:
        id = self._id
        if id is None:
            [(id,)] = session.rows(sql["new_worker"])
            self._id = id
        session.rows(sql["hire"], self._values | {"id": id})
        return id


def workers(session: Session, sql: Queries, times: Times) -> list[WorkerRow]:
    """Those that have a lease."""
    return [
        WorkerRow(id, host, pid, None if queues is None else tuple(queues), *rest)
        for id, host, pid, queues, *rest in session.rows(sql["workers"], times._asdict())
    ]


def beat(
    session: Session, sql: Queries, worker: int, monotonic: float | None, lag: float | None = None
) -> bool:
    """Renew a lease; None leaves the lag as it is. False if it was taken."""
    values = {"worker": worker, "monotonic": monotonic, "lag": lag}
    return session.count(sql["beat"], values) == 1


class Recovery(NamedTuple):
    """One sweep: beat, take the dead, suspect the silent, fail what can never run.

    Args:
        worker: who sweeps.
        rules: what it may do.
        read_clock: reads a clock of one's own, when the sweep begins.
        asked: when it asked for the sweep, by a clock of this process.
        silences: kept between its sweeps.
    """

    sql: Queries
    schema: str
    worker: int
    rules: Sweep
    read_clock: Callable[[], Times]
    asked: float
    silences: Silences
    times: Times = Times()

    repeatable = True

    def __call__(self, session: Session) -> Recovered:
        return self._replace(times=self.read_clock())._sweep(session)

    def _sweep(self, session: Session) -> Recovered:
        sql, now = self.sql, self.times.now
        held = beat(session, sql, self.worker, self.times.monotonic)
        session.rows(sql["report"], {"worker": self.worker, "stuck": self.rules.stuck})
        [(is_alone,)] = session.rows(sql["may_sweep"], {"lock": lock_number(self.schema, "sweep")})
        if not is_alone:
            return Recovered(held, [], [])
        crashes: list[Change] = []
        bereaved = False
        for dead in self._dead(session):
            crashes += self._take(session, dead)
            bereaved |= groups.bereave(session, sql, dead, now)
            session.rows(sql["dismiss"], {"worker": dead})
        self._mark_unknown(session)
        ended = self._fail(session, "expired", expired)
        ended += self._fail(session, "forgotten", forgotten)
        return Recovered(held, crashes, ended, bereaved)

    def _dead(self, session: Session) -> list[int]:
        """Whose tasks are to be taken: dead workers, and what is no worker at all."""
        nobody = [worker for (worker,) in session.rows(self.sql["owners_without_lease"])]
        dead: list[int] = []
        suspects: list[int] = []
        waited = (self.times.monotonic or time.monotonic()) - self.asked
        values = {"worker": self.worker, "monotonic": self.times.monotonic}
        for id, lease, its_beat, suspect, now in session.rows(self.sql["others"], values):
            watched = Watched(id, lease, its_beat, True, suspect)
            verdict = self.silences.judge(watched, now, waited)
            if verdict is Verdict.DEAD:
                dead.append(id)
            elif verdict is Verdict.SUSPECT:
                suspects.append(id)
        if suspects:
            session.rows(self.sql["suspect"], values | {"workers": numbers(suspects)})
        if dead:
            locked = session.rows(self.sql["lock_dead"], {"workers": numbers(dead)})
            dead = [id for (id,) in locked]
        return nobody + dead

    def _take(self, session: Session, dead: int) -> list[Change]:
        """Take what a dead worker held. Returns what becomes of it."""
        rows = session.rows(self.sql["held_by"], {"worker": dead})
        limit = self.rules.crash_limit
        changes = [
            crashed(Reservation._make(fields), limit, cancel_requested=cancel)
            for *fields, cancel in rows
        ]
        return self._settle(session, dead, changes, State.RUNNING)

    def _mark_unknown(self, session: Session) -> None:
        queues = None if self.rules.queues is None else texts(self.rules.queues)
        values = {"queues": queues, "now": self.times.now}
        if self.rules.unknown:
            names = texts(self.rules.unknown)
            session.rows(self.sql["mark_unknown"], values | {"names": names})
        session.rows(self.sql["clear_known"], values | {"names": texts(self.rules.known)})

    def _fail(
        self, session: Session, query: str, decide: Callable[[Reservation], Change]
    ) -> list[Change]:
        values = {"now": self.times.now, "unknown_after": self.rules.unknown_after}
        rows = session.rows(self.sql[query], values)
        changes = [decide(task) for task in map(Reservation._make, rows)]
        return self._settle(session, None, changes, State.PENDING)

    def _settle(
        self, session: Session, worker: int | None, changes: Sequence[Change], state: State
    ) -> list[Change]:
        settled: set[int] = set()
        for start in range(0, len(changes), CHUNK):
            some = changes[start : start + CHUNK]
            made = settle(session, self.sql, worker, some, self.times.now, state, is_sweep=True)
            settled |= made.seqs
        return [change for change in changes if change.seq in settled]

"""Compares the journals after the drain, and says which promise was broken, if any."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sitq.backends.sqlite import verbs

from .history import TERMINAL, Histories
from .journal import Service, connect, entries, records, services

LEAVES: Mapping[str, frozenset[str]] = {
    # How a run ended in its process, and how its reservation may have ended in the store.
    "returned": frozenset({"succeeded", "crashed"}),
    "raised": frozenset({"retried", "failed", "cancelled", "released", "crashed"}),
    "was cancelled": frozenset({"cancelled", "released", "crashed"}),
    "was killed": frozenset({"crashed"}),
    "never began": frozenset({"cancelled", "released", "crashed"}),
}

TICK = 0.002
"""Seconds by which two clocks may differ: SQLite's counts milliseconds."""
Moments = Mapping[int, list[float]]
"""When something happened to processes of this id, one after the other."""
Reserved = tuple[int, int]
"""The row and the fence of a reservation."""


@dataclass(slots=True)
class Verdict:
    """What was found."""

    violations: list[str] = field(default_factory=list[str])
    moves: dict[str, int] = field(default_factory=dict[str, int])
    tasks: int = 0
    runs: int = 0
    killed_runs: int = 0
    """Runs that began, and whose process died under them."""
    acknowledged: int = 0
    settled: int = 0
    """Of the acknowledged ones."""
    live: int = 0
    """Of the acknowledged ones."""
    lost: int = 0
    settled_twice: int = 0
    unexpected: int = 0
    unanswered: int = 0
    unanswered_stored: int = 0
    repeated_keys: int = 0
    """Keyed enqueues without an answer that were made again."""
    repeated_stored: int = 0
    """Of these, those that had been stored the first time."""
    workers_lost: int = 0
    """Tasks that failed because so many workers died under them."""
    stalled_recovered: int = 0
    """Tasks taken from a worker that was stopped for longer than its lease."""
    living_recovered: int = 0
    """Tasks taken from any other worker that lived: the machine was too busy to let it beat."""


class Tries:
    """What the enqueuers tried, and what was acknowledged."""

    def __init__(self, folder: Path) -> None:
        self.batches: list[list[str]] = []
        self.tried: dict[str, list[float]] = {}
        """When each token was tried."""
        self.acknowledged: dict[str, str] = {}
        """Ids by token."""
        for path in sorted(folder.glob("*.tries.jsonl")):
            for record in records(path):
                if record["op"] == "ack":
                    ids = zip(record["tokens"], record["ids"], strict=True)
                    self.acknowledged.update(ids)
                else:
                    self.batches.append(record["tokens"])
                    for token in record["tokens"]:
                        self.tried.setdefault(token, []).append(record["at"])


def judge(path: Path, folder: Path, killed: Moments, stalled: Moments) -> Verdict:
    """Check everything, after the drain.

    Args:
        path: of the database.
        folder: where the journals of the processes are.
        killed: when processes were killed.
        stalled: when processes were stopped for a while.
    """
    verdict = Verdict()
    tries = Tries(folder)
    with closing(connect(path)) as connection:
        histories = Histories(entries(connection))
        workers = {one.id: one for one in services(connection) if one.event == "hired"}
        gone = {one.id: one for one in services(connection) if one.event == "gone"}
        verdict.violations += histories.violations
        verdict.violations += _answers(verdict, tries, histories)
        verdict.violations += _enqueues(verdict, tries, histories)
        verdict.violations += _runs(verdict, folder, tries, histories, workers)
        verdict.violations += _store(verdict, connection, histories)
    verdict.violations += _suspicions(histories, gone)
    _recoveries(verdict, histories, workers, killed, stalled)
    verdict.moves = dict(histories.moves)
    verdict.tasks = len(histories.first)
    verdict.settled_twice = histories.settled_twice
    verdict.workers_lost = histories.workers_lost
    return verdict


def _answers(verdict: Verdict, tries: Tries, histories: Histories) -> Iterator[str]:
    """What was acknowledged is there; what was not may be there once."""
    verdict.acknowledged = len(tries.acknowledged)
    for token, id in tries.acknowledged.items():
        seq = histories.seqs.get(bytes.fromhex(id), 0)
        if seq not in histories.tokens[token]:
            verdict.lost += 1
            yield f"acknowledged, but never stored: {token} {id}"
        else:
            ended = histories.last[seq].state in TERMINAL
            verdict.settled += ended
            verdict.live += not ended
    for token in tries.tried.keys() - tries.acknowledged.keys():
        verdict.unanswered += 1
        verdict.unanswered_stored += bool(histories.tokens[token])
    for token, times in tries.tried.items():
        if len(times) > 1:
            verdict.repeated_keys += 1
            verdict.repeated_stored += _was_stored(histories, token, times[1])


def _enqueues(verdict: Verdict, tries: Tries, histories: Histories) -> Iterator[str]:
    """What is there was enqueued, as often as it was enqueued, all of it or none."""
    for token, seqs in histories.tokens.items():
        if len(seqs) > len(tries.tried.get(token, ())):
            verdict.unexpected += 1
            yield f"stored more often than it was enqueued: {token} {seqs}"
    for tokens in tries.batches:
        if len({bool(histories.tokens[token]) for token in tokens}) > 1:
            yield f"stored in part: {tokens}"


def _was_stored(histories: Histories, token: str, before: float) -> bool:
    return any(histories.first[seq].at < before for seq in histories.tokens[token])


def _runs(
    verdict: Verdict,
    folder: Path,
    tries: Tries,
    histories: Histories,
    workers: Mapping[int, Service],
) -> Iterator[str]:
    ends: dict[Reserved, str] = {}
    for path in sorted(folder.glob("*.runs.jsonl")):
        for record in records(path):
            reserved = record["seq"], record["fence"]
            if record["op"] == "end":
                ends[reserved] = record["how"]
                continue
            verdict.runs += 1
            problem = _unexpected(record, ends, tries, histories, workers)
            if problem is not None:
                verdict.unexpected += 1
                yield f"{problem}: {record}"
            ends[reserved] = "was killed"
    for reserved in histories.reserved:
        how = ends.get(reserved, "never began")
        verdict.killed_runs += how == "was killed"
        left = histories.left.get(reserved)
        if left is None or left.move not in LEAVES[how]:
            yield f"the run {how}, its reservation ended otherwise: {reserved} {left}"


def _unexpected(
    start: dict[str, Any],
    seen: Mapping[Reserved, str],
    tries: Tries,
    histories: Histories,
    workers: Mapping[int, Service],
) -> str | None:
    reserved = start["seq"], start["fence"]
    entry = histories.reserved.get(reserved)
    if reserved in seen:
        return "ran twice under one fence"
    if start["token"] not in tries.tried:
        return "ran, but nobody enqueued it"
    if start["seq"] not in histories.tokens[start["token"]]:
        return "ran with the arguments of another"
    if entry is None or workers[entry.worker or 0].pid != start["pid"]:
        return "ran in a process that had not reserved it"
    if entry.attempts + 1 != start["attempt"]:
        return "ran as another attempt"
    return None


def _suspicions(histories: Histories, gone: Mapping[int, Service]) -> Iterator[str]:
    for worker in gone.values():
        if worker.suspect is not None and worker.suspect - worker.beat < worker.lease * 2 / 3:
            yield f"suspected too early: {worker}"
    for reserved, left in histories.left.items():
        if left.move == "crashed":
            entry = histories.reserved.get(reserved)
            worker = None if entry is None else gone.get(entry.worker or 0)
            if worker is None or worker.suspect is None:
                yield f"taken from a worker that was not suspected: {left} {worker}"


def _recoveries(
    verdict: Verdict,
    histories: Histories,
    workers: Mapping[int, Service],
    killed: Moments,
    stalled: Moments,
) -> None:
    for reserved, entry in histories.reserved.items():
        left = histories.left.get(reserved)
        if left is None or left.move != "crashed":
            continue
        worker = workers[entry.worker or 0]
        if not _since(killed, worker, left.entry.at):
            verdict.stalled_recovered += _since(stalled, worker, left.entry.at)
            verdict.living_recovered += not _since(stalled, worker, left.entry.at)


def _since(moments: Moments, worker: Service, until: float) -> bool:
    its = moments.get(worker.pid, ())
    return any(worker.at - TICK <= at <= until + TICK for at in its)


def _store(verdict: Verdict, connection: sqlite3.Connection, histories: Histories) -> Iterator[str]:
    columns = "seq, state, fence, attempts, crashes, epoch"
    rows = {row[0]: row for row in connection.execute(f"SELECT {columns} FROM sitq_task")}
    known = {
        seq: (seq, last.state, last.fence, last.attempts, last.crashes, last.epoch)
        for seq, last in histories.last.items()
        if seq not in histories.pruned
    }
    for seq in known.keys() - rows.keys():
        verdict.lost += 1
        yield f"gone from the store: {known[seq]}"
    for seq, row in rows.items():
        if known.get(seq) != row:
            yield f"not as its history says: {row}, {known.get(seq)}"
    counts = {state: n for state, n in verbs.counts(connection, None).items() if n}
    if counts != Counter(verbs.STATES[row[1]] for row in rows.values()):
        yield f"the counts are wrong: {counts}"
    yield from _left_behind(connection)


REMAINS: Mapping[str, str] = {
    "live tasks": "SELECT seq, state FROM sitq_task WHERE state IN (0, 1)",
    "workers": "SELECT id, pid FROM sitq_worker",
    "bodies without a task": """
        SELECT seq, part FROM sitq_big WHERE seq NOT IN (SELECT seq FROM sitq_task)
    """,
    "ends without a result": """
        SELECT seq, state FROM sitq_task
        WHERE state IN (2, 3) AND coalesce(value, error) IS NULL
            AND seq NOT IN (SELECT seq FROM sitq_big WHERE part > 0)
    """,
    "ends with one number": """
        SELECT change FROM sitq_task WHERE state >= 2 GROUP BY change HAVING count(*) > 1
    """,
    "damage": "SELECT * FROM pragma_integrity_check WHERE integrity_check <> 'ok'",
}


def _left_behind(connection: sqlite3.Connection) -> Iterator[str]:
    for what, query in REMAINS.items():
        found = connection.execute(query).fetchall()
        if found:
            yield f"after the drain there are {what}: {found[:10]}"

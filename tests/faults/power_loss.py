"""Loses the power at every moment of a program's life, and looks at what is left.

A child runs a queue and a worker on a recorded disk. Then the record is cut after each of its
steps; the files are built as the disk may hold them, opened with sitq, and compared with what the
program had been told by then. A sample is part of the tests; the whole takes minutes::

    python -m tests.faults.power_loss --synchronous FULL --rounds 12

With ``--frames 1000``, SQLite's own number, the log is moved into the database as seldom as usual.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from bisect import bisect
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from sqlite3 import Connection
from typing import Any, NamedTuple
from uuid import uuid4

import anyio

from sitq import SQLiteBackend
from sitq.backends.sqlite.verbs import STATES
from sitq.model import NewTask, State

from .disk import Disk, Kind, Record
from .replay import Replay, everything, none, some, torn, write

CHILD = Path(__file__).with_name("power_loss_child.py")
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
OFTEN = 40
"""Pages in the log of SQLite after which it is moved into the database, here."""


class Fact(NamedTuple):
    """What the program was told, and how long the record was then."""

    at: int
    kind: str
    what: Any


class Left(NamedTuple):
    """What was in the database after the loss."""

    states: dict[str, State]
    seqs: dict[str, State]
    pruned: int


@dataclass(slots=True)
class Figures:
    """What a run has looked at, and what was missing."""

    counts: Counter[str] = field(default_factory=Counter[str])
    worst: int = 0

    def __str__(self) -> str:
        counts = ", ".join(f"{what} {count}" for what, count in self.counts.items())
        return f"{counts}, most acknowledged lost in one state {self.worst}"


@dataclass(slots=True)
class Recording:
    """A program's life: what it did to the disk, and what it was told."""

    records: list[Record]
    facts: list[Fact]
    figures: Figures = field(default_factory=Figures)
    known: dict[int, Left] = field(default_factory=dict[int, Left])

    @classmethod
    def make(
        cls, root: Path, synchronous: str, loop: str, rounds: int, frames: int = OFTEN
    ) -> Recording:
        """Run the program."""
        disk = Disk(root)
        facts = root / "facts"
        command = [disk.path, disk.log, facts, synchronous, loop, rounds, frames]
        done = subprocess.run(
            [sys.executable, "-P", str(CHILD), *map(str, command)],
            env=disk.environment(recorded=True),
            capture_output=True,
            text=True,
            timeout=60 + rounds,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return cls(disk.records(), [Fact(*fact) for fact in json.loads(facts.read_text())])

    def left_at(self, cut: Record) -> list[Fact]:
        """What the program knew at that moment."""
        return [fact for fact in self.facts if fact.at <= cut.end]


async def check(
    recording: Recording, cuts: Iterable[int], seed: int, *, honest: bool = True
) -> None:
    """Lose the power after the steps ``cuts``, in all the ways, and count what is missing.

    Raises:
        AssertionError: a state cannot be opened, or is no state that the database ever had.
    """
    wanted = set(cuts)
    replay = Replay(honest=honest)
    counts = recording.figures.counts
    counts["records"] += len(recording.records)
    counts["writes"] += sum(record.kind is Kind.WRITE for record in recording.records)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        for number, record in enumerate(recording.records):
            replay.apply(record)
            if number in wanted:
                counts["cuts"] += 1
                rng = Random(seed + number)
                for choice in (none, everything, torn(rng), some(rng), some(rng)):
                    left = await _left(recording, replay.state(choice), Path(folder), rng)
                    _compare(recording, record, left)


async def _left(recording: Recording, files: dict[str, bytes], folder: Path, rng: Random) -> Left:
    """What sitq finds in these files. The same files are opened once."""
    recording.figures.counts["states"] += 1
    digest = hash(frozenset(files.items()))
    if digest not in recording.known:
        recording.figures.counts["opened"] += 1
        # The index of the log is in no order after a loss of power.
        index = rng.randbytes(rng.choice((0, 3, 32_768)))
        write({**files, "tasks.db-shm": index}, folder)
        async with SQLiteBackend(folder / "tasks.db") as backend:
            recording.known[digest] = await backend._opened.reader.run(_look)
            await backend.insert([_new_task()])
    return recording.known[digest]


def _look(connection: Connection) -> Left:
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = connection.execute("SELECT id, seq, state FROM sitq_task").fetchall()
    meta = dict(connection.execute("SELECT name, value FROM sitq_meta").fetchall())
    for broken in BROKEN:
        assert connection.execute(broken).fetchone() is None, broken
    return Left(
        {id.hex(): STATES[state] for id, _, state in rows},
        {str(seq): STATES[state] for _, seq, state in rows},
        meta["pruned"],
    )


BROKEN = (
    "SELECT seq FROM sitq_big WHERE seq NOT IN (SELECT seq FROM sitq_task)",
    "SELECT seq FROM sitq_task WHERE arguments IS NULL"
    " AND seq NOT IN (SELECT seq FROM sitq_big WHERE part = 0)",
    "SELECT seq FROM sitq_task WHERE state = 2 AND value IS NULL"
    " AND seq NOT IN (SELECT seq FROM sitq_big WHERE part = 1)",
    "SELECT seq FROM sitq_task WHERE state = 3 AND error IS NULL"
    " AND seq NOT IN (SELECT seq FROM sitq_big WHERE part = 2)",
    "SELECT seq FROM sitq_task WHERE change > (SELECT value FROM sitq_meta WHERE name = 'ended')",
)
"""Each finds what only half a transaction can leave."""


def _new_task() -> NewTask:
    return NewTask(uuid4().bytes, "echo", "default", 0, 0.0, None, None, None, None, b"", 0.0)


def _compare(recording: Recording, cut: Record, left: Left) -> None:
    """Every transaction is whole or absent, and those that are absent are the last ones."""
    prunes = any(fact.kind == "prunes" and fact.at <= cut.end for fact in recording.facts)
    held: list[tuple[Fact, bool]] = []
    pruned = 0
    for fact in recording.facts:
        pruned += fact.kind == "pruned"
        answers = _holds(fact, left, pruned, prunes=prunes)
        assert len(answers) < 2, f"half of {fact} is there"
        held += [(fact, answer) for answer in answers]
    holds = [answer for _, answer in held]
    assert holds == sorted(holds, reverse=True), f"not the last ones are lost: {held}"
    lost = sum(not answer for fact, answer in held if fact.at <= cut.end)
    figures = recording.figures
    figures.counts["states with a loss"] += lost > 0
    figures.worst = max(figures.worst, lost)


def _holds(fact: Fact, left: Left, pruned: int, *, prunes: bool) -> set[bool]:
    """Whether what was told is so: both answers for half a transaction, none if nobody can say."""
    if fact.kind == "stored" and not (prunes and fact.what["name"] == "short"):
        return {id in left.states for id in fact.what["ids"]}
    if fact.kind == "ended":
        return {
            left.seqs.get(seq) == state
            for seq, state in fact.what.items()
            if not (prunes and seq not in left.seqs)
        }
    if fact.kind == "cancelled":
        return {left.states.get(fact.what) is State.CANCELLED}
    if fact.kind == "pruned":
        return {left.pruned >= pruned}
    return set()


def sample(recording: Recording, size: int, seed: int) -> list[int]:
    """Some of the moments: around syncs, where something was just acknowledged, and any others."""
    rng = Random(seed)
    places = range(len(recording.records))
    syncs = [n for n in places if recording.records[n].kind is not Kind.WRITE]
    ends = [record.end for record in recording.records]
    answers = [bisect(ends, fact.at) - 1 for fact in recording.facts]
    third = size // 3
    return rng.sample(syncs, third) + rng.sample(answers, third) + rng.sample(places, third)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL"), default="FULL")
    parser.add_argument("--loop", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--frames", type=int, default=OFTEN)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        recording = Recording.make(
            root, options.synchronous, options.loop, options.rounds, options.frames
        )
    anyio.run(check, recording, range(len(recording.records)), options.seed)
    print(f"{options.synchronous}: {recording.figures}")
    assert options.synchronous == "NORMAL" or recording.figures.worst == 0


if __name__ == "__main__":
    main()

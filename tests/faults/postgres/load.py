"""A load of processes on one schema, and what is to be true of it at the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import anyio
import psycopg

from sitq.backends.postgres import PostgresBackend
from sitq.serialization import default_serializer, unpack_arguments

__all__ = ["Figures", "Load", "load"]

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 60.0
"""Seconds for what is left when nothing is broken any more."""
MOVES = """
CREATE TABLE {schema}.moves (
    number bigserial, seq bigint, fence bigint, before smallint, after smallint
);
CREATE FUNCTION {schema}.moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {schema}.moves (seq, fence, before, after)
    VALUES (NEW.seq, NEW.fence, OLD.state, NEW.state);
    RETURN NULL;
END $$;
CREATE TRIGGER moved AFTER UPDATE ON {schema}.task FOR EACH ROW
WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION {schema}.moved();
"""


@dataclass
class Figures:
    """What was found at the end."""

    acknowledged: int = 0
    raised: int = 0
    stored: int = 0
    """Rows, children of trees included."""
    settled: int = 0
    runs: int = 0
    ran_again: int = 0
    """Tasks that ran more than once."""
    lost: int = 0
    twice_stored: int = 0
    twice_settled: int = 0
    never_ran: int = 0
    """Acknowledged ones."""
    same_fence: int = 0
    """Reservations that had the fence of another one of the same task."""
    unfinished: int = 0
    """Rows that did not succeed."""
    workers: int = 0
    """Leases that are left."""
    wrong: list[str] = field(default_factory=list[str])
    logged: list[str] = field(default_factory=list[str])

    def check(self, *, once: bool) -> None:
        """Fail if a promise was broken; with ``once`` nothing may have run again."""
        assert self.acknowledged > 20, self
        broken = (self.lost, self.twice_stored, self.twice_settled, self.never_ran)
        assert broken == (0, 0, 0, 0), self
        assert (self.same_fence, self.unfinished, self.workers, self.wrong) == (0, 0, 0, []), self
        if once:
            assert (self.ran_again, self.logged) == (0, []), self


class Load:
    """Processes that enqueue, and processes that work.

    Args:
        url: of the server.
        schema: of the store, which is there.
        folder: for the journal.
        lease: of the workers, in seconds.
    """

    def __init__(self, url: str, schema: str, folder: Path, lease: float) -> None:
        self.schema = schema
        self._url = url
        self._journal = folder / "journal"
        self._lease = lease
        self._loops = cycle(("asyncio", "trio"))
        self._workers: list[subprocess.Popen[bytes]] = []
        self._enqueuers: list[subprocess.Popen[bytes]] = []

    def start(self, *, workers: int, enqueuers: int) -> None:
        """Start them, and wait until all have begun."""
        self._workers = [self._spawn("work") for _ in range(workers)]
        self._enqueuers = [self._spawn("enqueue") for _ in range(enqueuers)]
        self.wait_for("began", workers + enqueuers)
        self.wait_for("ran", 5)

    def count(self, word: str) -> int:
        """How many lines of this kind were written."""
        return sum(line.startswith(word) for line in self._lines())

    def hire(self) -> subprocess.Popen[bytes]:
        """Start one more worker."""
        self._workers.append(self._spawn("work"))
        return self._workers[-1]

    def wait_for(self, word: str, number: int) -> None:
        """Wait until there are so many lines of this kind."""
        end = time.monotonic() + PATIENCE
        while self.count(word) < number:
            assert time.monotonic() < end, f"{self.count(word)} times {word}"
            time.sleep(0.02)

    def kill_one(self, rng: random.Random) -> None:
        """Kill a worker, and start another one in its place."""
        which = rng.randrange(len(self._workers))
        self._workers[which].send_signal(signal.SIGKILL)
        self._workers[which].communicate()
        self._workers[which] = self._spawn("work")

    def end(self) -> Figures:
        """Enqueue no more, let the workers do what is left, and see what became of it."""
        self._stop(self._enqueuers)
        with psycopg.connect(self._url, autocommit=True) as connection:
            end = time.monotonic() + PATIENCE
            query = f"SELECT count(*) FROM {self.schema}.task WHERE state < 2"
            while connection.execute(query).fetchone() != (0,) and time.monotonic() < end:
                time.sleep(0.05)
            self._stop(self._workers)
            return self._judge(connection)

    def kill(self) -> None:
        """Kill what still runs."""
        for process in (*self._workers, *self._enqueuers):
            if process.poll() is None:
                process.kill()
                process.communicate()

    def _spawn(self, role: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.faults.postgres.program", role, self._url]
        command += [self.schema, next(self._loops), str(self._journal), str(self._lease)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, env=environment)

    def _stop(self, processes: list[subprocess.Popen[bytes]]) -> None:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in processes:
            assert process.wait(PATIENCE) == 0, "a process broke"

    def _lines(self) -> list[str]:
        if not self._journal.exists():
            return []
        return self._journal.read_text(encoding="utf-8").splitlines()

    def _tokens(self, word: str) -> list[str]:
        lines = [line.split() for line in self._lines()]
        return [token for first, *tokens in lines if first == word for token in tokens]

    def _judge(self, connection: psycopg.Connection[Any]) -> Figures:
        def pairs(query: str) -> dict[Any, Any]:
            return dict(connection.execute(query.replace("{}", self.schema)).fetchall())

        stored, raised = set(self._tokens("stored")), set(self._tokens("raised"))
        runs = Counter(self._tokens("ran"))
        rows = Counter(map(_token, pairs("SELECT id, arguments FROM {}.task").values()))
        settled = pairs("SELECT seq, count(*) FROM {}.moves WHERE after >= 2 GROUP BY 1")
        states = pairs("SELECT state, count(*) FROM {}.task GROUP BY 1")
        fences = pairs(
            "SELECT seq, count(*) - count(DISTINCT fence) FROM {}.moves WHERE after = 1 GROUP BY 1"
        )
        leases = pairs("SELECT id, pid FROM {}.worker")
        return Figures(
            acknowledged=len(stored),
            raised=len(raised),
            stored=rows.total(),
            settled=len(settled),
            runs=runs.total(),
            ran_again=sum(number > 1 for number in runs.values()),
            lost=len(stored - set(rows)),
            twice_stored=sum(number > 1 for number in rows.values()),
            twice_settled=sum(number != 1 for number in settled.values()),
            never_ran=len(stored - set(runs)),
            same_fence=sum(bool(number) for number in fences.values()),
            unfinished=rows.total() - states.get(2, 0),
            workers=len(leases),
            wrong=[line for line in self._lines() if line.startswith("wrong")],
            logged=[line for line in self._lines() if line.startswith("logged")],
        )


def _token(arguments: Any) -> str:
    args, _ = unpack_arguments(default_serializer, bytes(arguments), "the token")
    return args[0]


@contextmanager
def load(url: str, schema: str, *, lease: float = 15.0) -> Iterator[Load]:
    """A load on a schema that is made here; at the end nothing of it runs."""

    async def make() -> None:
        async with PostgresBackend(url, schema=schema):
            pass

    anyio.run(make)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(MOVES.replace("{schema}", schema))
    with tempfile.TemporaryDirectory(prefix="sitq-load-") as folder:
        made = Load(url, schema, Path(folder), lease)
        try:
            yield made
        finally:
            made.kill()

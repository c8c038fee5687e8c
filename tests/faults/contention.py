"""Processes that all enqueue into one file and work on it: does each get its turn, and how soon?

    python tests/faults/contention.py --processes 8 --seconds 10

Half of them run on asyncio, half on trio, each with several callers who enqueue without a pause
and with a worker. The figures are printed for FULL and for NORMAL. It exits with 1 when a process
met an error, when one got more than twice the turns of another, or when a call took longer than
250 ms.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import anyio
import anyio.to_thread

from sitq import Registry, SQLiteBackend, State, TaskQueue, Worker

CALLERS = 4
LONGEST = 0.25
"""Seconds that no call may take."""
SPREAD = 2.0
"""No process may get more than so many times what another gets."""
PATIENCE = 60.0
"""Seconds beyond the run after which a process is given up."""
LOOPS = ("asyncio", "trio")

registry = Registry()


@registry.task(name="nothing")
async def nothing() -> None:
    """What every task does: all the time goes to the store."""


@dataclass(slots=True)
class Report:
    """What one process did and met."""

    loop: str
    enqueued: int = 0
    transactions: int = 0
    trouble: int = 0
    """Lines that its worker logged as a warning or worse."""
    longest_lock: float = 0.0
    """Seconds that it waited longest for the lock of the database."""
    latencies: list[float] = field(default_factory=list[float])
    """Of each enqueue, in seconds."""


@dataclass(slots=True)
class Figures:
    """What all processes did, and the bounds that they broke."""

    synchronous: str
    seconds: float
    enqueued: int
    succeeded: int
    fewest_enqueued: int
    most_enqueued: int
    fewest_transactions: int
    most_transactions: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    longest_ms: float
    longest_lock_ms: float
    broken: list[str]


class _Trouble(logging.Handler):
    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report.trouble += 1
        print(self.format(record), file=sys.stderr)


def _count_transactions(backend: SQLiteBackend, report: Report) -> None:
    database = backend._database
    whole, begin = database.transaction, database._begin

    @contextmanager
    def transaction(connection: Connection) -> Generator[None]:
        with whole(connection):
            yield
        report.transactions += 1

    def timed_begin(connection: Connection) -> None:
        started = time.perf_counter()
        begin(connection)
        report.longest_lock = max(report.longest_lock, time.perf_counter() - started)

    database.transaction = transaction
    database._begin = timed_begin


async def _enqueue(queue: TaskQueue, end: float, report: Report) -> None:
    while time.monotonic() < end:
        started = time.perf_counter()
        await queue.enqueue(nothing)
        report.latencies.append(time.perf_counter() - started)
        report.enqueued += 1


async def _live(path: str, synchronous: Any, seconds: float, report: Report) -> None:
    """One process: it is ready, waits for the word to begin, enqueues and works, and stops."""
    backend = SQLiteBackend(path, synchronous=synchronous)
    _count_transactions(backend, report)
    logging.getLogger("sitq.worker").addHandler(_Trouble(report))
    async with TaskQueue(backend) as queue, Worker(backend, registry=registry):
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        end = time.monotonic() + seconds
        async with anyio.create_task_group() as group:
            for _ in range(CALLERS):
                group.start_soon(_enqueue, queue, end, report)


def _be_child(path: str, synchronous: str, seconds: float, loop: str) -> None:
    report = Report(loop)
    anyio.run(_live, path, synchronous, seconds, report, backend=loop)
    print(json.dumps(asdict(report)))


def contend(folder: Path, synchronous: str, processes: int, seconds: float) -> Figures:
    """Let so many processes live on one new file for so long, and sum up what they report.

    Raises:
        subprocess.CalledProcessError: one of them failed; what it said went to our stderr.
    """
    path = folder / f"{synchronous}.db"
    with ExitStack() as stack:
        children: list[subprocess.Popen[str]] = []
        for number in range(processes):
            loop = LOOPS[number % len(LOOPS)]
            command = [sys.executable, "-P", __file__, "--child", str(path), synchronous]
            child = subprocess.Popen(
                [*command, str(seconds), loop],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            children.append(stack.enter_context(child))
            stack.callback(child.kill)
        for child in children:
            assert child.stdout is not None
            if child.stdout.readline() != "ready\n":
                raise subprocess.CalledProcessError(child.wait(PATIENCE), "a process")
        reports = _reports(children, seconds)
    return _sum_up(reports, synchronous, seconds, anyio.run(_counts, path))


def _reports(children: list[subprocess.Popen[str]], seconds: float) -> list[Report]:
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    reports: list[Report] = []
    for child in children:
        text, _ = child.communicate(timeout=seconds + PATIENCE)
        if child.returncode:
            raise subprocess.CalledProcessError(child.returncode, "a process")
        reports.append(Report(**json.loads(text)))
    return reports


async def _counts(path: Path) -> dict[State, int]:
    async with SQLiteBackend(path) as backend:
        return dict(await backend.counts())


def _sum_up(
    reports: list[Report], synchronous: str, seconds: float, counts: dict[State, int]
) -> Figures:
    latencies = sorted(latency for report in reports for latency in report.latencies)
    enqueued = [report.enqueued for report in reports]
    transactions = [report.transactions for report in reports]
    figures = Figures(
        synchronous,
        seconds,
        enqueued=sum(enqueued),
        succeeded=counts[State.SUCCEEDED],
        fewest_enqueued=min(enqueued),
        most_enqueued=max(enqueued),
        fewest_transactions=min(transactions),
        most_transactions=max(transactions),
        p50_ms=_milliseconds(latencies, 0.5),
        p99_ms=_milliseconds(latencies, 0.99),
        p999_ms=_milliseconds(latencies, 0.999),
        longest_ms=_milliseconds(latencies, 1.0),
        longest_lock_ms=round(1000 * max(report.longest_lock for report in reports), 1),
        broken=[],
    )
    if sum(counts.values()) != figures.enqueued:
        figures.broken.append(f"{sum(counts.values())} tasks are stored")
    if counts[State.FAILED] or counts[State.CANCELLED]:
        figures.broken.append("tasks failed")
    if any(report.trouble for report in reports):
        figures.broken.append("a worker had trouble")
    return figures


def _milliseconds(latencies: list[float], share: float) -> float:
    return round(1000 * latencies[min(len(latencies) - 1, int(share * len(latencies)))], 1)


def bounds_broken(figures: Figures) -> list[str]:
    """The bounds on time and fairness that were broken."""
    broken: list[str] = []
    if figures.longest_ms > 1000 * LONGEST:
        broken.append(f"a call took {figures.longest_ms} ms")
    for what, fewest, most in (
        ("tasks", figures.fewest_enqueued, figures.most_enqueued),
        ("transactions", figures.fewest_transactions, figures.most_transactions),
    ):
        if most > SPREAD * fewest:
            broken.append(f"{what}: one process had {most}, another {fewest}")
    return broken


def _print(figures: Figures) -> None:
    print(f"{figures.synchronous}, {figures.seconds:g} s")
    print(f"  enqueued {figures.enqueued}, of them worked off {figures.succeeded}")
    print(f"  enqueued by one process {figures.fewest_enqueued} to {figures.most_enqueued}")
    print(f"  its transactions {figures.fewest_transactions} to {figures.most_transactions}")
    print(
        f"  an enqueue took p50 {figures.p50_ms}, p99 {figures.p99_ms}, p99.9 {figures.p999_ms}, "
        f"at most {figures.longest_ms} ms; the lock at most {figures.longest_lock_ms} ms"
    )
    for bound in figures.broken:
        print(f"  BROKEN: {bound}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--synchronous", choices=["FULL", "NORMAL"], action="append")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        path, synchronous, seconds, loop = options.child
        _be_child(path, synchronous, float(seconds), loop)
        return 0
    found: list[Figures] = []
    with tempfile.TemporaryDirectory() as folder:
        for synchronous in options.synchronous or ("FULL", "NORMAL"):
            figures = contend(Path(folder), synchronous, options.processes, options.seconds)
            figures.broken += bounds_broken(figures)
            found.append(figures)
            if not options.json:
                _print(figures)
    if options.json:
        print(json.dumps([asdict(figures) for figures in found], indent=2))
    return int(any(figures.broken for figures in found))


if __name__ == "__main__":
    sys.exit(main())

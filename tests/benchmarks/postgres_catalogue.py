"""The contests on PostgreSQL: what is measured, against what, and what is to be reached."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.benchmarks.contest import Contest, Contestant, Demand
from tests.benchmarks.contestants import SYNC, limit, pgqueuer, procrastinate
from tests.benchmarks.demands import at_most, of_fastest, ratio
from tests.benchmarks.sizes import Sizes

__all__ = ["postgres_contests"]

OURS = "sitq"
BY_HAND, COPY = "one INSERT a row by hand", "COPY by hand"
ALONE = "its backend without a worker"
SLOTS = 100
BATCHES = (10, 100)
"""Jobs that PgQueuer takes at once: its default, and as many as there are slots."""
SLOWER_SYNC = 2_000
"""Microseconds."""

OnPostgres = partial(Contest, on_postgres=True)


def postgres_contests(loop: str, sizes: Sizes) -> Iterator[Contest]:
    """Those of one event loop."""
    yield _enqueue_one(sizes, loop)
    yield _enqueue_bulk(sizes, loop)
    yield _drain(sizes, loop)
    yield _latency(sizes, loop)
    yield _round_trip(sizes, loop)
    if loop == "asyncio":
        yield _committers(sizes)
        yield _processes(sizes)
        yield _history(sizes)
        yield _snapshot(sizes)


def _labels(contestants: tuple[Contestant, ...]) -> list[str]:
    return [contestant.label for contestant in contestants]


def _enqueue_one(sizes: Sizes, loop: str) -> Contest:
    work = {"count": sizes.enqueued}
    peers = (
        *pgqueuer("one_by_one", loop, **work),
        *procrastinate("one_by_one", loop, count=sizes.drained_by_peers),
    )
    demands = [ratio(OURS, BY_HAND, None, hope=0.6)]
    if peers:
        demands.append(of_fastest(OURS, _labels(peers), None, hope=1.0))
    return OnPostgres(
        "postgres-enqueue-one",
        "on PostgreSQL: enqueue one at a time, durable when it returns",
        (
            Contestant(OURS, "enqueue:one_by_one", work),
            limit(BY_HAND, "postgres:insert_by_hand", **work),
            limit(SYNC, "limits:fdatasync", count=sizes.syncs),
            *peers,
        ),
        tuple(demands),
    )


def _enqueue_bulk(sizes: Sizes, loop: str) -> Contest:
    work = {"count": sizes.bulk, "at_once": sizes.at_once}
    on_pgqueuer = pgqueuer("bulk", loop, **work)
    demands = [ratio(OURS, COPY, 0.3)]
    if on_pgqueuer:
        demands.append(of_fastest(OURS, _labels(on_pgqueuer), 1.0))
    return OnPostgres(
        "postgres-enqueue-bulk",
        f"on PostgreSQL: enqueue {sizes.at_once:,} at a time",
        (
            Contestant(OURS, "enqueue:bulk", work),
            limit(COPY, "postgres:copy", **work),
            *on_pgqueuer,
            *procrastinate("bulk", loop, **work),
        ),
        tuple(demands),
    )


def _drain(sizes: Sizes, loop: str) -> Contest:
    work = {"count": sizes.drained, "slots": SLOTS}
    on_pgqueuer = pgqueuer("drain", loop, batches=BATCHES, **work)
    on_procrastinate = procrastinate("drain", loop, count=sizes.drained_slowly, slots=SLOTS)
    demands: list[Demand] = []
    if on_pgqueuer:
        demands.append(of_fastest(OURS, _labels(on_pgqueuer), 1.0))
    if on_procrastinate:
        demands.append(of_fastest(OURS, _labels(on_procrastinate), 20.0))
    return OnPostgres(
        "postgres-drain",
        f"on PostgreSQL: drain {sizes.drained:,} no-op async tasks, {SLOTS} slots, results stored",
        (
            Contestant(OURS, "drain:drain", work),
            limit(ALONE, "postgres:backend_alone", **work),
            *on_pgqueuer,
            *on_procrastinate,
        ),
        tuple(demands),
    )


def _latency(sizes: Sizes, loop: str) -> Contest:
    waits = {"count": sizes.started, "pace": sizes.pace, "idle": sizes.idle}
    return OnPostgres(
        "postgres-latency",
        f"on PostgreSQL: idle latency, {sizes.pace:g} a second: enqueue in one process to start in "
        "another",
        (
            Contestant(OURS, "waking:latency_across", waits),
            *pgqueuer("latency_across", loop, **waits),
            *procrastinate("latency_across", loop, **waits),
        ),
        (at_most(OURS, "p50_ms", 3.0),),
    )


def _round_trip(sizes: Sizes, loop: str) -> Contest:
    work = {"count": sizes.trips}
    return OnPostgres(
        "postgres-round-trip",
        "on PostgreSQL: round trip, enqueue to result: the worker in another process",
        (
            Contestant(OURS, "waking:round_trip_across", work),
            *pgqueuer("round_trip_across", loop, **work),
            *procrastinate("round_trip_across", loop, **work),
        ),
        (at_most(OURS, "p50_ms", 5.0),),
    )


def _committers(sizes: Sizes) -> Contest:
    work = {
        "count": sizes.committed,
        "callers": sizes.committers,
        "processes": sizes.committer_processes,
        "delay_us": SLOWER_SYNC,
    }
    silent = f"{OURS} without a NOTIFY"
    return OnPostgres(
        "postgres-committers",
        f"on PostgreSQL: {sizes.committers} backends enqueue one at a time, each sync takes "
        f"{SLOWER_SYNC / 1000:g} ms longer",
        (
            Contestant(OURS, "postgres:committers", {**work, "rings": True}),
            Contestant(silent, "postgres:committers", {**work, "rings": False}),
        ),
        (ratio(OURS, silent, 0.7),),
    )


def _processes(sizes: Sizes) -> Contest:
    labels = {number: f"{OURS}, {number} processes" for number in (1, 2, 4)}
    work = {"count": sizes.drained, "slots": SLOTS, "name": "nothing"}
    return OnPostgres(
        "postgres-processes",
        f"on PostgreSQL: drain {sizes.drained:,} no-op async tasks with 1, 2, 4 worker processes",
        tuple(
            Contestant(label, "scaling:drain", {**work, "processes": number})
            for number, label in labels.items()
        ),
        (ratio(labels[2], labels[1], None, hope=1.0), ratio(labels[4], labels[1], 1.0)),
    )


def _history(sizes: Sizes) -> Contest:
    work = {"count": sizes.drained, "warm": sizes.warm, "slots": SLOTS}
    empty, full = f"{OURS}, empty table", f"{OURS}, many rows"
    measure = "drain:drain_among_others"
    return OnPostgres(
        "postgres-history",
        f"on PostgreSQL: drain beside {sizes.history:,} finished and {sizes.history:,} pending "
        f"rows, after {sizes.warm:,} to warm up",
        (
            Contestant(empty, measure, {**work, "pending": 0}),
            Contestant(full, measure, {**work, "pending": sizes.history}, is_prepared=True),
        ),
        (ratio(full, empty, 0.85),),
        prepare=(
            "postgres_store:prepare_history",
            {"ended": sizes.history, "pending": sizes.history},
        ),
    )


def _snapshot(sizes: Sizes) -> Contest:
    work = {"count": sizes.held, "turns": sizes.reserves}
    held = f"{OURS}, an old snapshot"
    return OnPostgres(
        "postgres-snapshot",
        f"on PostgreSQL: reserve 100, before and after {sizes.held:,} tasks went through",
        (
            Contestant(held, "postgres:old_snapshot", {**work, "is_held": True}),
            Contestant(f"{OURS}, none", "postgres:old_snapshot", {**work, "is_held": False}),
        ),
        (at_most(held, "growth", 2.0),),
    )

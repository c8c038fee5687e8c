"""All contests: what is measured, against what, and what is to be reached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.benchmarks.contest import Contest, Contestant, Demand
from tests.benchmarks.contestants import (
    AIOSQLITE,
    BY_HAND,
    BY_HAND_FULL,
    GROUP,
    LITEQUEUE,
    OURS,
    OURS_FULL,
    PIPED,
    PIPED_FULL,
    REFERENCE,
    SYNC,
    THREADS,
    huey,
    installed,
    limit,
    litequeue,
    ours,
    redis,
)
from tests.benchmarks.demands import at_least, at_most, of_drain_limit, of_fastest, ratio
from tests.benchmarks.sizes import Sizes

__all__ = ["contests"]

DRAIN = "a plain drain"
QUICK_SYNC = 0.2
"""Milliseconds of fdatasync up to which demands on FULL hold."""
SLOTS = 100
SHORT = 0.005
"""Seconds of a step of the loop beside which a demand on a settle makes sense."""


def contests(loop: str, sizes: Sizes) -> Iterator[Contest]:
    """Those of one event loop."""
    yield _enqueue_one(sizes, loop)
    yield _enqueue_bulk(sizes, loop)
    yield _enqueue_crowd(sizes, loop)
    yield _drain(sizes, loop)
    for slots in (10, 1_000):
        yield _drain_plain(f"drain-{slots}", sizes.drained, slots)
    for slots in (10, 100, 1_000):
        yield _drain_plain(f"drain-long-{slots}", sizes.drained_long, slots)
    yield _drain_threads(sizes)
    yield from _latencies(sizes)
    yield from _round_trips(sizes, loop)
    yield from _processes(sizes)
    yield _history(sizes)
    yield _reserve(sizes)
    yield _settle_busy(sizes)
    yield _waiters(sizes)
    yield _memory(sizes)
    yield _join(sizes)
    yield _waiting_parents(sizes)
    if loop == "asyncio":
        yield _import(sizes)


def _enqueue_one(sizes: Sizes, loop: str) -> Contest:
    count = sizes.enqueued
    aiosqlite = Contestant(
        AIOSQLITE, "limits:aiosqlite_insert", {"count": count}, "limit",
        loop="asyncio" if loop == "trio" else None,
    )  # fmt: skip
    return Contest(
        "enqueue-one",
        "enqueue one at a time, durable when it returns",
        (
            *ours("enqueue:one_by_one", count=count),
            aiosqlite,
            limit(BY_HAND, "limits:insert_by_hand", count=count),
            limit(BY_HAND_FULL, "limits:insert_by_hand", count=count),
            limit(SYNC, "limits:fdatasync", count=sizes.syncs),
            *huey("one_by_one", count=count),
            *litequeue("one_by_one", count=count),
            *redis("one_by_one", loop, count=count),
        ),
        (ratio(OURS, AIOSQLITE, 0.6),),
    )


def _enqueue_bulk(sizes: Sizes, loop: str) -> Contest:
    count = sizes.bulk
    raw, raw_full = "executemany NORMAL", "executemany FULL"
    demands = [ratio(OURS, raw, 0.5)]
    if litequeue("bulk"):
        demands.append(ratio(OURS, LITEQUEUE, None, hope=1.0))
    return Contest(
        "enqueue-bulk",
        "enqueue many in one transaction",
        (
            *ours("enqueue:bulk", count=count),
            limit(raw, "limits:insert_many_by_hand", count=count),
            limit(raw_full, "limits:insert_many_by_hand", count=count),
            *huey("bulk", count=sizes.drained_by_peers),
            *litequeue("bulk", count=count),
            *redis("bulk", loop, count=sizes.drained_by_peers),
        ),
        tuple(demands),
    )


def _enqueue_crowd(sizes: Sizes, loop: str) -> Contest:
    return Contest(
        "enqueue-crowd",
        f"enqueue by {sizes.callers} callers at once",
        (
            *ours("enqueue:crowd", count=sizes.bulk, callers=sizes.callers),
            limit(BY_HAND, "limits:insert_by_hand", count=sizes.enqueued),
            limit(BY_HAND_FULL, "limits:insert_by_hand", count=sizes.enqueued),
            limit(SYNC, "limits:fdatasync", count=sizes.syncs),
            *huey("one_by_one", count=sizes.enqueued),
            *litequeue("one_by_one", count=sizes.enqueued),
            *redis("crowd", loop, count=sizes.drained_by_peers, callers=sizes.callers),
        ),
        (
            ratio(OURS_FULL, OURS, 0.7),
            at_least(OURS_FULL, "rate_per_s", 30_000, sync_ms=QUICK_SYNC),
        ),
    )


def _drain(sizes: Sizes, loop: str) -> Contest:
    work = {"count": sizes.drained, "slots": SLOTS}
    on_huey = huey("drain", count=sizes.drained_by_peers)
    on_redis = redis("drain", loop, count=sizes.drained_by_peers, slots=SLOTS)
    demands = [*_near_the_limit(), ratio(OURS_FULL, OURS, 0.8, sync_ms=QUICK_SYNC)]
    if (on_huey or on_redis) and loop != "trio":
        demands.append(of_fastest(OURS, [peer.label for peer in (*on_huey, *on_redis)], 8.0))
    return Contest(
        "drain",
        f"drain {sizes.drained:,} no-op async tasks, {SLOTS} slots, results stored",
        (
            *ours("drain:drain", **work),
            Contestant(REFERENCE, "reference:drain", work, "reference"),
            Contestant("reference FULL", "reference:drain", work, "reference", "FULL"),
            limit(BY_HAND, "limits:drain_by_hand", **work),
            limit(BY_HAND_FULL, "limits:drain_by_hand", **work),
            limit(GROUP, "limits:group", **work),
            *on_huey,
            *litequeue("drain", count=sizes.drained_by_peers),
            *on_redis,
        ),
        tuple(demands),
    )


def _drain_plain(name: str, count: int, slots: int) -> Contest:
    work = {"count": count, "slots": slots}
    return Contest(
        name,
        f"drain {count:,} no-op async tasks, {slots} slots, results stored",
        (
            *ours("drain:drain", **work),
            Contestant(REFERENCE, "reference:drain", work, "reference"),
            limit(BY_HAND, "limits:drain_by_hand", **work),
            limit(GROUP, "limits:group", **work),
        ),
        _near_the_limit() if slots == SLOTS else (),
    )


def _near_the_limit() -> tuple[Demand, ...]:
    return (
        ratio(OURS, REFERENCE, 0.75),
        of_drain_limit(OURS, BY_HAND, GROUP, 0.6, hope=0.8),
    )


def _drain_threads(sizes: Sizes) -> Contest:
    work = {"count": sizes.in_threads, "slots": SLOTS}
    return Contest(
        "drain-threads",
        f"drain no-op sync tasks in threads, {SLOTS} slots",
        (
            *ours("drain:drain", **work, name="nothing_sync"),
            limit(THREADS, "limits:threads", **work),
            *huey("drain", count=sizes.drained_by_peers),
        ),
        (ratio(OURS, THREADS, 0.7),),
    )


def _latencies(sizes: Sizes) -> Iterator[Contest]:
    work = {"count": sizes.started, "pace": sizes.pace}
    waits = {**work, "idle": sizes.idle}
    yield Contest(
        "latency",
        f"idle latency, {sizes.pace:g} a second: enqueue in one process to start in another",
        (
            *ours("waking:latency_across", **waits),
            limit(PIPED, "waking_by_hand:latency_across", **work),
            limit(PIPED_FULL, "waking_by_hand:latency_across", **work),
            *huey("latency_across", **waits),
        ),
        (
            at_most(OURS, "p50_ms", 1.5, hope=1.0),
            at_most(OURS, "p99_ms", 4.0),
            at_most(OURS, "idle_cpu_percent", 0.3),
            at_most(OURS_FULL, "p50_ms", 2.5),
            at_most(OURS_FULL, "p99_ms", 6.0),
            at_most(OURS_FULL, "idle_cpu_percent", 0.3),
        ),
    )
    yield Contest(
        "latency-here",
        f"idle latency, {sizes.pace:g} a second: enqueue to start in one process",
        (
            *ours("waking:latency_here", **work),
            limit(BY_HAND, "waking_by_hand:latency_here", **work),
            *huey("latency_here", **work),
        ),
        (at_most(OURS, "p50_ms", 0.7),),
    )


def _round_trips(sizes: Sizes, loop: str) -> Iterator[Contest]:
    count = sizes.trips
    yield Contest(
        "round-trip",
        "round trip, enqueue to result: the worker in another process",
        (
            *ours("waking:round_trip_across", count=count),
            limit(PIPED, "waking_by_hand:round_trip_across", count=count),
            limit(PIPED_FULL, "waking_by_hand:round_trip_across", count=count),
            *huey("round_trip_across", count=count),
        ),
        (at_most(OURS, "p50_ms", 2.2), at_most(OURS_FULL, "p50_ms", 3.5)),
    )
    yield Contest(
        "round-trip-here",
        "round trip, enqueue to result: the worker in the same process",
        (
            *ours("waking:round_trip_here", count=count),
            limit(BY_HAND, "waking_by_hand:round_trip_here", count=count),
            *huey("round_trip_here", count=count),
            *redis("round_trip_here", loop, count=count),
        ),
        (at_most(OURS, "p50_ms", 1.0),),
    )


def _processes(sizes: Sizes) -> Iterator[Contest]:
    for name, task, count in (
        ("processes-burn", "burn", sizes.burned),
        ("processes-noop", "nothing", sizes.drained),
    ):
        slots = 10 if task == "burn" else SLOTS
        labels = {number: f"sitq NORMAL, {number} processes" for number in (1, 2, 4)}
        contestants = [
            Contestant(
                label,
                "scaling:drain",
                {"count": count, "slots": slots, "processes": number, "name": task},
            )
            for number, label in labels.items()
        ]
        if task == "burn":
            contestants += [
                limit(
                    f"bare processes, {number}", "scaling:burn_alone", count=count, processes=number
                )
                for number in labels
            ]
        contestants += huey("drain", count=sizes.drained_by_peers) if task == "nothing" else ()
        what = "that use 5 ms of CPU" if task == "burn" else "that do nothing"
        yield Contest(
            name,
            f"drain {count:,} tasks {what} with 1, 2, 4 worker processes",
            tuple(contestants),
            (ratio(labels[2], labels[1], 1.9),) if task == "burn" else (),
        )


def _history(sizes: Sizes) -> Contest:
    work = {"count": sizes.drained, "warm": sizes.warm, "slots": SLOTS}
    empty, full = "sitq NORMAL, empty file", "sitq NORMAL, many rows"
    return Contest(
        "history",
        f"drain beside {sizes.history:,} finished and {sizes.history:,} pending rows, "
        f"after {sizes.warm:,} to warm up",
        (
            Contestant(empty, "drain:drain_among_others", {**work, "pending": 0}),
            Contestant(
                full,
                "drain:drain_among_others",
                {**work, "pending": sizes.history},
                is_prepared=True,
            ),
        ),
        (ratio(full, empty, 0.9),),
        prepare=("drain:prepare_history", {"ended": sizes.history, "pending": sizes.history}),
    )


def _reserve(sizes: Sizes) -> Contest:
    turns = {"turns": sizes.turns}
    kinds = ("one_queue_ms", "three_queues_ms", "twenty_queues_ms", "no_filter_ms")
    return Contest(
        "reserve",
        f"reserve 100 among {sizes.queued:,} in 20 queues, {sizes.delayed:,} delayed in front",
        (
            Contestant(OURS, "growth:reserve", turns, is_prepared=True),
            Contestant(BY_HAND, "growth:reserve_by_hand_alone", turns, "limit", is_prepared=True),
        ),
        tuple(at_most(OURS, kind, 0.5) for kind in kinds),
        prepare=("growth:prepare_queues", {"pending": sizes.queued, "delayed": sizes.delayed}),
    )


def _settle_busy(sizes: Sizes) -> Contest:
    turns = {"turns": sizes.turns}
    steps = {f"sitq NORMAL, steps of {1000 * step:g} ms": step for step in sizes.steps}
    thread = "sitq NORMAL, one step without an end"
    return Contest(
        "settle-busy",
        "settle 100 while the event loop is always busy, with steps so long",
        (
            *(
                Contestant(label, "growth:settle_beside_busy_loop", {**turns, "step": step})
                for label, step in steps.items()
            ),
            Contestant(thread, "growth:settle_beside_busy_thread", turns),
            limit("SQL by hand NORMAL, nothing beside", "growth:settle_by_hand_alone", **turns),
        ),
        (
            *(at_most(label, "p50_ms", 15.0) for label, step in steps.items() if step <= SHORT),
            at_most(thread, "p50_ms", 15.0),
        ),
    )


def _waiters(sizes: Sizes) -> Contest:
    count = {"count": sizes.waiters}
    return Contest(
        "waiters",
        f"{sizes.waiters:,} callers wait for their results",
        (
            Contestant(OURS, "waiting:waiters", count),
            limit("bare waiting tasks", "waiting:bare_waiters", **count),
        ),
        (at_most(OURS, "query_p50_ms", 0.2), at_most(OURS, "memory_each_kib", 12.0)),
    )


def _memory(sizes: Sizes) -> Contest:
    work = {"count": sizes.drained_long, "slots": SLOTS}
    return Contest(
        "memory",
        f"memory of a worker: idle, and what a drain of {sizes.drained_long:,} adds",
        (
            Contestant(OURS, "footprint:worker_memory", work),
            limit("an event loop and aiosqlite", "memory:bare"),
            *huey("worker_memory", count=sizes.drained_by_peers),
        ),
        (at_most(OURS, "idle_mib", 45.0), at_most(OURS, "drain_adds_mib", 20.0)),
    )


def _join(sizes: Sizes) -> Contest:
    work = {"count": sizes.children, "slots": SLOTS}
    return Contest(
        "join",
        f"join a group of {sizes.children:,} children that do nothing, {SLOTS} slots",
        (Contestant(OURS, "families:join", work), Contestant(DRAIN, "drain:drain", work)),
        (ratio(OURS, DRAIN, 0.7),),
    )


def _waiting_parents(sizes: Sizes) -> Contest:
    return Contest(
        "parents",
        f"{sizes.parents:,} parents wait for their children, one slot",
        (Contestant(OURS, "families:waiting_parents", {"count": sizes.parents}),),
        (),
    )


def _import(sizes: Sizes) -> Contest:
    def imported(*modules: str) -> dict[str, Any]:
        return {"modules": modules, "times": sizes.imports}

    needs = ("anyio", "aiosqlite", "msgpack")
    measure = "footprint:import_of"
    return Contest(
        "import",
        "import time; modules of trio, command lines, servers that come with it",
        (
            Contestant("sitq", measure, imported("sitq")),
            Contestant("what sitq imports", measure, imported(*needs), "limit"),
            *installed("huey", "huey", measure, imported("huey")),
            *installed("saq", "saq", measure, imported("saq")),
            *installed("taskiq", "taskiq", measure, imported("taskiq")),
            *installed("streaq", "streaq", measure, imported("streaq")),
        ),
        (at_most("sitq", "import_ms", 120.0), at_most("sitq", "unwanted_modules", 0.0)),
    )

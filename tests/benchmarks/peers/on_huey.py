"""huey on SQLite: write-ahead log, synchronous FULL, results stored, a pool of threads."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count as counter

from huey import SqliteHuey
from huey.consumer import Consumer

from tests.benchmarks.child import say, wait_for_word
from tests.benchmarks.memory import MEBI, forget_peak, peak, resident
from tests.benchmarks.pace import WARM, at_a_pace, summary
from tests.benchmarks.processes import companion
from tests.benchmarks.setting import URL, Figures, Setting

__all__ = [
    "bulk",
    "drain",
    "enqueuer",
    "filler",
    "latency_across",
    "latency_here",
    "one_by_one",
    "round_trip_across",
    "round_trip_here",
    "worker",
    "worker_memory",
]

WORKERS = 1
"""Threads; more are slower, since they contend for the lock of the database and the interpreter."""
DELAY = 0.005
"""Seconds between two looks of the tuned consumer; the default begins at 0.1."""
PATIENCE = 600.0


class Peer:
    """A huey with the task functions that are measured."""

    def __init__(self, setting: Setting) -> None:
        self.huey = SqliteHuey("benchmark", filename=setting.path, fsync=True)
        self.finished = threading.Event()
        self.latencies: list[float] = []
        self._numbers = counter(1)
        self._last = 0
        self.nothing = self.huey.task(name="nothing")(self._nothing)
        self.stamp = self.huey.task(name="stamp")(self._stamp)
        self.fetch = self.huey.task(name="fetch")(lambda url, tries: None)

    def expect(self, calls: int) -> None:
        """Wait for so many calls."""
        self._last = calls

    def _nothing(self) -> bool:
        if next(self._numbers) == self._last:
            self.finished.set()
        return True  # huey stores no None

    def _stamp(self, sent: float) -> float:
        self.latencies.append(time.monotonic() - sent)
        if next(self._numbers) == self._last:
            self.finished.set()
        return sent

    @contextmanager
    def consumer(self, workers: int = 1) -> Generator[None]:
        """A consumer in this process, tuned to look often."""
        logging.getLogger("huey").setLevel(logging.ERROR)
        consumer = Consumer(
            self.huey,
            workers=workers,
            periodic=False,
            initial_delay=DELAY,
            backoff=1.0,
            max_delay=DELAY,
            check_worker_health=False,
        )
        consumer.start()
        try:
            yield
        finally:
            consumer.stop(graceful=True)


def one_by_one(setting: Setting, count: int) -> Figures:
    """One call after the other."""
    peer = Peer(setting)
    started = time.perf_counter()
    for number in range(count):
        peer.fetch(URL, number)
    return {"rate_per_s": count / (time.perf_counter() - started)}


bulk = one_by_one  # it has no call for many


def drain(setting: Setting, count: int, workers: int = WORKERS) -> Figures:
    """From the start of the consumer until the last call has run."""
    peer = Peer(setting)
    peer.expect(count)
    for _ in range(count):
        peer.nothing()
    started = time.perf_counter()
    with peer.consumer(workers):
        peer.finished.wait(PATIENCE)
        seconds = time.perf_counter() - started
    return {"rate_per_s": count / seconds}


def worker_memory(setting: Setting, count: int) -> Figures:
    """Of a process with a consumer: while it has nothing to do, and at the peak of a drain."""
    peer = Peer(setting)
    peer.expect(count)
    with peer.consumer():
        gc.collect()
        idle = resident()
        forget_peak()
        with companion("peers.on_huey:filler", setting, count=count) as other:
            other.is_ready()
            peer.finished.wait(PATIENCE)
        return {"idle_mib": idle / MEBI, "drain_adds_mib": (peak() - idle) / MEBI}


def filler(setting: Setting, count: int) -> Figures:
    """The companion that enqueues calls of a function that does nothing."""
    peer = Peer(setting)
    say("ready")
    for _ in range(count):
        peer.nothing()
    return {}


def enqueuer(setting: Setting, count: int, pace: float) -> Figures:
    """The companion that enqueues, so many a second."""
    peer = Peer(setting)
    say("ready")
    wait_for_word()
    _enqueue_at_a_pace(peer, count, pace)
    return {}


def _enqueue_at_a_pace(peer: Peer, count: int, pace: float) -> None:
    for wait in at_a_pace(count, pace):
        time.sleep(wait)
        peer.stamp(time.monotonic())


def latency_across(setting: Setting, count: int, pace: float, idle: float) -> Figures:
    """From before an enqueue in another process to the start here."""
    peer = Peer(setting)
    peer.expect(count + WARM)
    with (
        companion("peers.on_huey:enqueuer", setting, count=count, pace=pace) as other,
        peer.consumer(),
    ):
        other.is_ready()
        before = time.process_time()
        time.sleep(idle)
        cpu = 100 * (time.process_time() - before) / idle
        other.tell("go")
        peer.finished.wait(PATIENCE)
    return {**summary(peer.latencies), "idle_cpu_percent": cpu}


def latency_here(setting: Setting, count: int, pace: float) -> Figures:
    """The same in one process."""
    peer = Peer(setting)
    peer.expect(count + WARM)
    with peer.consumer():
        _enqueue_at_a_pace(peer, count, pace)
        peer.finished.wait(PATIENCE)
    return summary(peer.latencies)


def worker(setting: Setting) -> Figures:
    """The companion that works until it is told to stop."""
    with Peer(setting).consumer():
        say("ready")
        wait_for_word()
    return {}


def round_trip_across(setting: Setting, count: int) -> Figures:
    """From before an enqueue until the result is read, run by a consumer in another process."""
    peer = Peer(setting)
    with companion("peers.on_huey:worker", setting) as other:
        other.is_ready()
        return _round_trips(peer, count)


def round_trip_here(setting: Setting, count: int) -> Figures:
    """The same with the consumer in this process."""
    peer = Peer(setting)
    with peer.consumer():
        return _round_trips(peer, count)


def _round_trips(peer: Peer, count: int) -> Figures:
    seconds: list[float] = []
    for _ in range(count + WARM):
        started = time.monotonic()
        result = peer.stamp(started)
        result.get(blocking=True, timeout=PATIENCE, backoff=1.0, max_delay=0.001)
        seconds.append(time.monotonic() - started)
    return summary(seconds)

"""What sitq takes before and beside the work: memory of a worker, time of the import."""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
from contextlib import closing

from sitq import Worker
from tests.benchmarks.child import say
from tests.benchmarks.memory import MEBI, forget_peak, peak, resident
from tests.benchmarks.processes import companion
from tests.benchmarks.setting import Figures, Setting
from tests.benchmarks.store import connect, insert, new_rows
from tests.benchmarks.stores import looking, until_ended
from tests.benchmarks.tasks import backend_of, calls, registry

__all__ = ["filler", "import_of", "worker_memory"]

SERVERS = ("trio", "uvloop", "click", "typer", "psycopg", "psycopg_pool", "redis", "aiohttp")
"""What an import of sitq has no use for: another event loop, a command line, clients of servers."""


def worker_memory(setting: Setting, count: int, slots: int) -> Figures:
    """Of a process with a worker: while it has nothing to do, and at the peak of a drain."""
    return setting.run(_worker_memory, setting, count, slots)


async def _worker_memory(setting: Setting, count: int, slots: int) -> Figures:
    backend = backend_of(setting)
    calls.expect(count)
    async with Worker(backend, max_concurrency=slots, registry=registry):
        gc.collect()
        idle = resident()
        forget_peak()
        with companion("footprint:filler", setting, count=count) as other:
            other.is_ready()
        await calls.finished.wait()
        with looking(setting) as have_ended:
            await until_ended(have_ended, count)
        return {"idle_mib": idle / MEBI, "drain_adds_mib": (peak() - idle) / MEBI}


def filler(setting: Setting, count: int) -> Figures:
    """The companion that enqueues, so that no trace of it is in the memory that is measured."""
    with closing(connect(setting.path, setting.synchronous)) as connection:
        insert(connection, new_rows(count))
    say("ready")
    return {}


def import_of(setting: Setting, modules: list[str], times: int) -> Figures:
    """Milliseconds of importing in a new interpreter, and how many modules come that should not."""
    answers = [_imported(modules) for _ in range(times + 1)][1:]  # the first one may compile
    return {
        "import_ms": statistics.median(took for took, _ in answers),
        "unwanted_modules": max(unwanted for _, unwanted in answers),
    }


def _imported(modules: list[str]) -> tuple[float, int]:
    program = (
        "import sys, time; began = time.perf_counter();"
        f"import {', '.join(modules)}; took = 1000 * (time.perf_counter() - began);"
        f"print(took, sum(name in sys.modules for name in {SERVERS!r}))"
    )
    answer = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    took, unwanted = answer.stdout.split()
    return float(took), int(unwanted)

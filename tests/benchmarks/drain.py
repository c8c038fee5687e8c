"""How fast one worker runs tasks that do nothing, and keeps their results."""

from __future__ import annotations

import gc
import time
from contextlib import closing

from sitq import Worker
from tests.benchmarks.setting import Figures, Setting
from tests.benchmarks.store import connect, fill_ended, insert, new_rows
from tests.benchmarks.stores import fill, looking, topped_up, until_ended
from tests.benchmarks.tasks import backend_of, calls, registry

__all__ = ["drain", "drain_among_others", "prepare_history"]

SLACK = 3
"""Batches more than are measured, so that the worker never comes to the end of its queue."""


def drain(setting: Setting, count: int, slots: int, name: str = "nothing") -> Figures:
    """From the start of the worker until the last result is stored."""
    fill(setting, count, name)
    gc.collect()
    return {"rate_per_s": count / setting.run(_drain, setting, count, slots)}


async def _drain(setting: Setting, count: int, slots: int) -> float:
    backend = backend_of(setting)
    with looking(setting) as have_ended:
        async with backend:
            calls.expect(count)
            started = time.perf_counter()
            async with Worker(backend, max_concurrency=slots, registry=registry):
                await calls.finished.wait()
                await until_ended(have_ended, count)
                return time.perf_counter() - started


def prepare_history(setting: Setting, ended: int, pending: int) -> Figures:
    """A file with many tasks that have ended and many that wait."""
    fill(setting, 0)
    with closing(connect(setting.path, "OFF")) as connection:
        fill_ended(connection, ended)
        insert(connection, new_rows(pending))
    return {}


def drain_among_others(
    setting: Setting, count: int, warm: int, slots: int, pending: int
) -> Figures:
    """From one call to another, while there are always so many pending; the first ones warm up."""
    with topped_up(setting, pending + warm + count + SLACK * slots):
        gc.collect()
        setting.run(_run_calls, setting, count, warm, slots)
    return {"rate_per_s": count / (calls.ended - calls.began)}


async def _run_calls(setting: Setting, count: int, warm: int, slots: int) -> None:
    backend = backend_of(setting)
    calls.expect(count, warm)
    async with Worker(backend, max_concurrency=slots, registry=registry):
        await calls.finished.wait()

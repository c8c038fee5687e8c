"""What a second and a fourth worker process bring."""

from __future__ import annotations

import time
from contextlib import ExitStack

import anyio
import anyio.to_thread

from sitq import Worker
from tests.benchmarks.child import say, wait_for_word
from tests.benchmarks.processes import Companion, companion
from tests.benchmarks.setting import Figures, Setting
from tests.benchmarks.stores import fill, looking
from tests.benchmarks.tasks import backend_of, registry, spin

__all__ = ["burn_alone", "burner", "drain", "ready", "start", "worker"]

LOOK = 0.005
"""Seconds between two looks at how many have ended."""


def drain(setting: Setting, count: int, slots: int, processes: int, name: str) -> Figures:
    """From the word to start until the last result is stored."""
    fill(setting, count, name)
    with looking(setting) as have_ended, ExitStack() as stack:
        others = ready(stack, "scaling:worker", setting, processes, slots=slots)
        started = start(others)
        while not have_ended(count):
            time.sleep(LOOK)
        seconds = time.perf_counter() - started
    return {"rate_per_s": count / seconds}


def ready(
    stack: ExitStack, name: str, setting: Setting, processes: int, **options: object
) -> list[Companion]:
    """Companions that wait for the word to start."""
    others = [stack.enter_context(companion(name, setting, **options)) for _ in range(processes)]
    for other in others:
        other.is_ready()
    return others


def start(others: list[Companion]) -> float:
    """Give the word. Returns when."""
    started = time.perf_counter()
    for other in others:
        other.tell("go")
    return started


def worker(setting: Setting, slots: int) -> Figures:
    """A companion that works when it is told to, until it is killed."""
    return setting.run(_work_when_told, setting, slots)


async def _work_when_told(setting: Setting, slots: int) -> Figures:
    async with backend_of(setting) as backend:
        say("ready")
        await anyio.to_thread.run_sync(wait_for_word)
        async with Worker(backend, max_concurrency=slots, registry=registry):
            await anyio.sleep_forever()
    return {}


def burn_alone(setting: Setting, count: int, processes: int) -> Figures:
    """The limit: the same work in bare processes."""
    with ExitStack() as stack:
        share = count // processes
        others = ready(stack, "scaling:burner", setting, processes, count=share)
        started = start(others)
        for other in others:
            other.hear()
        return {"rate_per_s": share * processes / (time.perf_counter() - started)}


def burner(setting: Setting, count: int) -> Figures:
    """A companion that does so much work when it is told to."""
    say("ready")
    wait_for_word()
    for _ in range(count):
        spin()
    return {}

"""What the tasks of a simulated queue do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import trio

from sitq import Registry, Retry, current_task
from sitq.context import running_task

if TYPE_CHECKING:
    from .world import World

__all__ = ["ATTEMPTS", "POLICY", "begin", "everybody", "known", "worlds"]

ATTEMPTS = 3
POLICY = Retry(attempts=ATTEMPTS, base=0.5, cap=4.0)

known = Registry()
everybody = Registry()
"""Knows one function more: the other workers are of an older version of the program."""
worlds: list[World] = []


def begin() -> World:
    """To be called first by every function: a run begins."""
    world = worlds[-1]
    run: Any = running_task.get()
    world.began(run.task, current_task().attempt)
    return world


async def succeed() -> int:
    return begin().value()


async def sleep(seconds: float) -> int:
    world = begin()
    await anyio.sleep(seconds)
    return world.value()


async def fail() -> None:
    begin()
    raise ValueError("as it was told to")


async def recover(at: int) -> int:
    world = begin()
    if current_task().attempt < at:
        raise OSError("not yet")
    return world.value()


async def leave(kind: str) -> None:
    begin()
    raise {"exit": SystemExit, "interrupt": KeyboardInterrupt, "other": GeneratorExit}[kind]("told")


async def linger(seconds: float, ends_well: bool) -> int:
    """Swallows its cancellation for a while."""
    world = begin()
    try:
        await anyio.sleep(30.0)
    except trio.Cancelled:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(seconds)
        if not ends_well:
            raise
    return world.value()


async def block() -> int:
    """Keeps its slot until somebody opens the gate."""
    world = begin()
    await world.gate.wait()
    return world.value()


async def spread(number: int) -> int:
    """Enqueues others, and fails if it cannot."""
    world = begin()
    for _ in range(number):
        await world.enqueue(everybody.get("succeed").call())  # type: ignore[union-attr]
    return world.value()


async def meet(number: int) -> int:
    """Ends when so many of them run at once: only if no slot is missing."""
    world = begin()
    await world.met(number)
    return world.value()


async def strange() -> int:
    return begin().value()


FUNCTIONS = (succeed, sleep, fail, recover, leave, linger, block, spread, meet)
for _function in FUNCTIONS:
    for _registry in (known, everybody):
        _registry.task(name=_function.__name__, retry=POLICY)(_function)
everybody.task(name="strange")(strange)

"""What the tasks of a simulated queue do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from functools import wraps
from typing import TYPE_CHECKING, Any

import anyio
import trio

from sitq import Registry, Retry, TaskQueue, current_task
from sitq.context import running_task
from sitq.errors import TaskCancelled

if TYPE_CHECKING:
    from .world import World

__all__ = ["ATTEMPTS", "POLICY", "End", "everybody", "known", "worlds"]

ATTEMPTS = 3
POLICY = Retry(attempts=ATTEMPTS, base=0.5, cap=4.0)


class End(Enum):
    """How a run ended."""

    RETURNED = "returned"
    RAISED = "raised"
    CANCELLED = "cancelled"


known = Registry()
everybody = Registry()
"""Knows one function more: the other workers are of an older version of the program."""
worlds: list[World] = []


def noted(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The function, with its runs written down: that they began, and how they ended."""

    @wraps(function)
    async def run(*args: Any) -> Any:
        world = worlds[-1]
        running: Any = running_task.get()
        world.began(running.task, current_task().attempt)
        current_task().progress(current_task().attempt)
        how = End.RAISED
        try:
            value = await function(*args)
            how = End.RETURNED
        except trio.Cancelled:
            how = End.CANCELLED
            raise
        finally:
            world.ended(running.task, how)
        return value

    return run


async def succeed() -> int:
    return worlds[-1].value()


async def sleep(seconds: float) -> int:
    await anyio.sleep(seconds)
    return worlds[-1].value()


async def fail() -> None:
    raise ValueError("as it was told to")


async def recover(at: int) -> int:
    if current_task().attempt < at:
        raise OSError("not yet")
    return worlds[-1].value()


async def leave(kind: str) -> None:
    raise {"exit": SystemExit, "interrupt": KeyboardInterrupt, "other": GeneratorExit}[kind]("told")


async def linger(seconds: float, ends_well: bool) -> int:
    """Swallows its cancellation for a while."""
    try:
        await anyio.sleep(30.0)
    except trio.Cancelled:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(seconds)
        if not ends_well:
            raise
    return worlds[-1].value()


async def block() -> int:
    """Keeps its slot until somebody opens the gate."""
    world = worlds[-1]
    await world.gate.wait()
    return world.value()


async def go_on() -> None:
    """Ends only if it is cancelled."""
    await anyio.sleep_forever()


async def cancel_itself(then: str) -> int:
    """Whatever it does then, it does not go back."""
    world = worlds[-1]
    await world.queue.cancel(current_task().id)
    if then == "fail":
        raise ValueError("cancelled and failed")
    if then == "sleep":
        await anyio.sleep_forever()
    return world.value()


async def spread(number: int) -> int:
    """Enqueues others, and fails if it cannot."""
    world = worlds[-1]
    for _ in range(number):
        await world.enqueue(everybody.get("succeed").call())  # type: ignore[union-attr]
    return world.value()


async def family(litter: list[tuple[str, list[Any]]], how: str) -> int:
    """Has others below it, and waits for them."""
    run: Any = running_task.get()
    async with TaskQueue(run.host.backend).task_group() as tg:  # over the line of its worker
        handles = [await tg.enqueue(everybody.get(name), *args) for name, args in litter]  # type: ignore[arg-type]
        if how == "as completed":
            async for handle in tg.as_completed():
                with suppress(TaskCancelled):
                    await handle.result()
        elif how == "one by one":
            for handle in handles:
                with suppress(TaskCancelled):
                    await handle.result()
        elif how == "cancel":
            await tg.cancel()
        elif how == "raise":
            raise LookupError("with children below")
    return worlds[-1].value()


async def meet(number: int) -> int:
    """Ends when so many of them run at once: only if no slot is missing."""
    world = worlds[-1]
    await world.met(number)
    return world.value()


async def strange() -> int:
    return worlds[-1].value()


FUNCTIONS = (
    succeed,
    sleep,
    fail,
    recover,
    leave,
    linger,
    block,
    go_on,
    cancel_itself,
    spread,
    family,
    meet,
)
for _function in FUNCTIONS:
    for _registry in (known, everybody):
        _registry.task(name=_function.__name__, retry=POLICY)(noted(_function))
everybody.task(name="strange")(noted(strange))

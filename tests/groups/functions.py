"""The task functions of these tests, and what they noted."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import anyio
import anyio.from_thread

from sitq import Registry, Retry, TaskQueue, current_task
from sitq.errors import KeyTaken

registry = Registry()
noted: list[Any] = []
queues: list[TaskQueue] = []
"""The queue that parents enqueue with."""


def queue() -> TaskQueue:
    return queues[-1]


@registry.task(name="echo")
async def echo(value: Any) -> Any:
    noted.append(value)
    return value


@registry.task(name="fail")
async def fail(message: str) -> None:
    raise ValueError(message)


@registry.task(name="sleep")
async def sleep(seconds: float = 60.0) -> str:
    noted.append("started")
    try:
        await anyio.sleep(seconds)
    except BaseException:
        noted.append("cancelled")
        raise
    return "slept"


@registry.task(name="total")
async def total(depth: int, width: int) -> int:
    """The number of leaves of a tree."""
    if depth == 0:
        return 1
    async with queue().task_group() as tg:
        handles = [await tg.enqueue(total, depth - 1, width) for _ in range(width)]
    return sum([await handle.result() for handle in handles])


@registry.task(name="parent_of_sleepers")
async def parent_of_sleepers(number: int) -> None:
    async with queue().task_group() as tg:
        await tg.enqueue_many([sleep.call()] * number)
        noted.append("open")


@registry.task(name="fails_below", retry=Retry(attempts=2, base=0.01, cap=0.02))
async def fails_below() -> str:
    attempt = current_task().attempt
    async with queue().task_group() as tg:
        first = await tg.enqueue(echo.using(child="kept"), "kept")
        await first.result()
        if attempt == 1:
            await tg.enqueue(fail.using(child="other"), "not yet")
        else:
            await tg.enqueue(echo.using(child="second"), "second")
    return await first.result()


@registry.task(name="wait_for")
async def wait_for(name: str) -> str:
    """Ends when somebody says so."""
    noted.append(f"{name} started")
    while name not in told:
        await anyio.sleep(0.005)
    noted.append(f"{name} ended")
    return name


told: set[str] = set()


@registry.task(name="parent", retry=Retry(attempts=2, base=0.01, cap=0.02))
async def parent(name: str) -> str:
    noted.append("parent started")
    async with queue().task_group() as tg:
        handle = await tg.enqueue(wait_for, name)
        noted.append("parent waits")
    return await handle.result()


@registry.task(name="changeable")
async def changeable() -> None:
    """Enqueues another call each time it runs."""
    noted.append("changeable started")
    async with queue().task_group() as tg:
        await tg.enqueue(wait_for, f"child {noted.count('changeable started')}")
        noted.append("open")


@registry.task(name="total_in_thread")
def total_in_thread(depth: int) -> int:
    """A plain function that waits for a tree."""
    return anyio.from_thread.run(total_below, depth)


async def total_below(depth: int) -> int:
    return await (await queue().enqueue(total, depth, 2)).result()


@registry.task(name="waits_at_once")
async def waits_at_once(number: int) -> list[Any]:
    """Several waits at the same moment in one run."""
    results: list[Any] = []

    async def take(value: int) -> None:
        handle = await queue().enqueue(echo, value)
        results.append(await handle.result())

    async with anyio.create_task_group() as group:
        for value in range(number):
            group.start_soon(take, value)
    return sorted(results)


def ends_at() -> float:
    """When the scopes around it end, by the wall clock; the median of some looks."""
    looks = [
        time.time() + anyio.current_effective_deadline() - anyio.current_time() for _ in range(9)
    ]
    return sorted(looks)[4]


@registry.task(name="tell_end")
async def tell_end() -> float:
    return ends_at()


@registry.task(name="tell_ends", timeout=100)
async def tell_ends() -> tuple[float, float]:
    mine = ends_at()
    async with queue().task_group() as tg:
        handle = await tg.enqueue(tell_end)
    return mine, await handle.result()


@registry.task(name="square")
async def square(number: int) -> int:
    noted.append(number)
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number * number


@registry.task(name="squares")
async def squares(numbers: list[int]) -> list[int]:
    async with queue().map(square, numbers, limit=10) as results:
        return [value async for value in results]


@registry.task(name="tried")
async def tried() -> str:
    noted.append("tried")
    if noted.count("tried") == 1:
        raise OSError("not yet")
    return "second try"


@registry.task(name="retried", retry=Retry(attempts=2, base=0.01, cap=0.02))
async def retried() -> str:
    async with queue().task_group() as tg:
        handle = await tg.enqueue(tried)
    return await handle.result()


@registry.task(name="raise_it")
async def raise_it(name: str) -> None:
    raise {"builtins.KeyError": KeyError, "builtins.ValueError": ValueError}[name]("below")


@registry.task(
    name="retries_on_key_error",
    retry=Retry(attempts=2, base=0.01, cap=0.02, retry_on=[KeyError]),
)
async def retries_on_key_error(name: str) -> None:
    async with queue().task_group() as tg:
        await tg.enqueue(raise_it, name)


@registry.task(name="detached")
async def detached() -> None:
    async with queue().task_group(detach=True):
        pass


@registry.task(name="stubborn")
async def stubborn(seconds: float = 0.1) -> str:
    """Asked to end, it finishes first."""
    noted.append("started")
    try:
        await anyio.sleep(60)
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await anyio.sleep(seconds)
    noted.append("finished")
    return "finished"


@registry.task(name="fail_together")
async def fail_together(number: int) -> None:
    """Fails when both are there."""
    noted.append(number)
    with anyio.CancelScope(shield=True):
        while len(noted) < 2:
            await anyio.sleep(0.005)
        raise ValueError(str(number))


@registry.task(name="tries_again")
async def tries_again() -> None:
    async with queue().task_group() as tg:
        for call in (echo, echo.using(child="named")):
            with suppress(KeyTaken):
                await tg.enqueue(call.using(key="taken"), 1)
            await tg.enqueue(call, 1)


@registry.task(name="deep", retry=Retry(attempts=2, base=0.01, cap=0.02, retry_on=[ValueError]))
async def deep(depth: int) -> None:
    if depth == 0:
        raise ValueError("at the bottom")
    async with queue().task_group() as tg:
        await tg.enqueue(deep, depth - 1)


@registry.task(name="stubborn_once")
async def stubborn_once() -> str:
    """Asked to end, it goes on until it is told to."""
    noted.append("stubborn started")
    try:
        while "second" not in told:
            await anyio.sleep(0.005)
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            while "second" not in told:
                await anyio.sleep(0.005)
    return "finished"


@registry.task(name="raises_first")
async def raises_first() -> list[str]:
    async with queue().task_group() as tg:
        first = await tg.enqueue(stubborn_once)
        second = await tg.enqueue(echo if "second" in told else echo.using(delay=60), "late")
        if "second" not in told:
            while "stubborn started" not in noted:
                await anyio.sleep(0.005)
            noted.append("raising")
            raise ConnectionError("not now")
    return [await first.result(), await second.result()]


@registry.task(name="fails_slowly", retry=Retry(attempts=2, base=1.0, cap=1.0, jitter=False))
async def fails_slowly() -> None:
    async with queue().task_group() as tg:
        await tg.enqueue(fail_when_told)
        noted.append("open")


@registry.task(name="fail_when_told")
async def fail_when_told() -> None:
    while "fail" not in told:
        await anyio.sleep(0.005)
    raise ValueError("as it was told to")


@registry.task(name="waits_again")
async def waits_again() -> str:
    """One part has waited and wants to go on, when another one begins to wait."""
    blocker = await queue().enqueue(sleep.using(priority=5), 0.3)
    first = await queue().enqueue(echo.using(priority=9), 1)
    async with anyio.create_task_group() as group:
        group.start_soon(first.result)  # then the blocker has the slot, and this waits for it
        while "started" not in noted:
            await anyio.sleep(0.005)
        last = await queue().enqueue(echo, 2)
        await last.result()
    await blocker.result()
    return "done"


@registry.task(name="gives_up")
async def gives_up() -> str:
    never = await queue().enqueue(echo.using(delay=3600), 1)
    with anyio.move_on_after(0.05):
        await never.result()
    await never.cancel()
    return "given up"

"""The task functions of these tests, and what they noted."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

import anyio

from sitq import Registry, Retry, SyncTaskQueue, current_task

registry = Registry()
noted: list[Any] = []
queues: list[SyncTaskQueue] = []
"""The queue that task functions use."""
gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)


def queue() -> SyncTaskQueue:
    return queues[-1]


@registry.task(name="echo")
async def echo(value: Any) -> Any:
    noted.append(value)
    return value


@registry.task(name="fail")
async def fail(message: str) -> None:
    raise ValueError(message)


@registry.task(name="sleep")
async def sleep() -> None:
    gates["sleeping"].set()
    await anyio.sleep(60)


@registry.task(name="total")
def total(depth: int, width: int) -> int:
    """The number of leaves of a tree, by plain functions that wait in their threads."""
    if depth == 0:
        return 1
    with queue().task_group() as tg:
        handles = [tg.enqueue(total, depth - 1, width) for _ in range(width)]
    return sum(handle.result() for handle in handles)


@registry.task(name="enqueues")
def enqueues(value: Any) -> Any:
    """Enqueues a plain task, which is no child of it, and waits for it."""
    return queue().enqueue(echo, value).result()


@registry.task(name="waits", timeout=30)
def waits(*, in_group: bool) -> None:
    """Waits for a task that does not end."""
    if in_group:
        with queue().task_group() as tg:
            told(tg.enqueue(sleep))
    else:
        told(queue().enqueue(sleep))


@registry.task(name="waits_for_later")
def waits_for_later() -> None:
    with queue().task_group() as tg:
        told(tg.enqueue(echo.using(delay=3600), 1))


def told(handle: Any) -> None:
    noted.append(handle)
    try:
        handle.result()
    except BaseException as error:
        noted.append(error)
        raise


@registry.task(name="waits_briefly", timeout=0.3)
def waits_briefly() -> None:
    told(queue().enqueue(sleep.using(delay=60)))


@registry.task(name="tried_twice", retry=Retry(attempts=2, base=0.01, cap=0.02))
def tried_twice() -> str:
    with queue().task_group() as tg:
        kept = tg.enqueue(echo.using(child="kept"), "kept")
        kept.result()
        if current_task().attempt == 1:
            tg.enqueue(fail.using(child="other"), "not yet")
        else:
            tg.enqueue(echo.using(child="other now"), "second")
    return kept.result()


@registry.task(name="blocks_its_loop")
async def blocks_its_loop() -> None:
    queue().enqueue(echo, 1)


@registry.task(name="deadlines", timeout=50)
def deadlines() -> float | None:
    with queue().task_group() as tg:
        child = tg.enqueue(seconds_left)
    return child.result()


@registry.task(name="seconds_left")
async def seconds_left() -> float:
    return anyio.current_effective_deadline() - anyio.current_time()


@registry.task(name="in_a_thread_of_its_own")
def in_a_thread_of_its_own() -> list[int]:
    """What threads that the function starts itself do is not part of the run."""
    values: list[int] = []
    thread = threading.Thread(target=lambda: values.append(queue().enqueue(echo, 7).result()))
    thread.start()
    thread.join()
    return values

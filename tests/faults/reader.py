"""A process that works and reads among rows that a stranger wrote.

It opens the file, does once whatever it is going to do, so that all is imported and cached, and
says so. A line on its standard input tells it to begin; the next ones to look on, to read all, and
to clear all away. It answers each with a line of JSON. Arguments: path, event loop.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from sitq import Registry, Retry, SQLiteBackend, Task, TaskQueue, Worker
from sitq.errors import SitqError

LEASE = 0.3
registry = Registry()
watched: list[str] = []
watching: list[bool] = []
asked: list[int] = []


@registry.task(name="echo")
async def echo(value: Any) -> Any:
    """Gives back what it got."""
    return value


@registry.task(name="fails", retry=Retry(attempts=2, base=0, jitter=False))
async def fails(value: Any) -> None:
    """Fails, twice by its own policy."""
    raise ValueError(value)


def watch(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook: nothing that was stored may lead to code."""
    if watching and event in ("import", "exec", "compile", "os.system", "subprocess.Popen"):
        watched.append(f"{event} {args[:1]!r:.200}")


def peak() -> int:
    """The most memory that this process ever had, in KiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def new_worker(backend: SQLiteBackend) -> Worker:
    return Worker(backend, registry=registry, lease=LEASE, unknown_after=0.2, retention=None)


async def outcome(ask: Callable[[], Awaitable[Any]]) -> str:
    """The name of what was returned, or of the error of sitq that was raised."""
    try:
        return type(await ask()).__name__
    except (SitqError, TimeoutError) as error:
        return type(error).__name__


def told(task: Task) -> list[Any]:
    return [
        task.seq,
        task.state,
        task.name[:300],
        None if task.error is None else task.error.type,
        None if task.error is None else task.error.message,
    ]


async def read_all(queue: TaskQueue) -> dict[str, Any]:
    found = await queue.find(limit=10_000)
    answers: Counter[str] = Counter()
    for task in found:
        again = await queue.get(task.id)
        answers["the same" if again == task else f"get: {type(again).__name__}"] += 1
        answers[f"arguments: {await outcome(lambda t=task: queue.arguments(t.id))}"] += 1
        answers[f"get_result: {await outcome(lambda t=task: queue.get_result(t.id))}"] += 1
        handle = queue.handle(task.id)
        answers[f"result: {await outcome(lambda h=handle: h.result(0))}"] += 1
    return {
        "found": [told(task) for task in found],
        "answers": answers,
        "counts": dict(await queue.counts()),
        "counts_of_queue": dict(await queue.counts("default")),
        "queues": await queue.queues(),
        "workers": len(await queue.workers()),
        "peak": peak(),
        "watched": watched,
        "asked": len(asked),
    }


async def clear_all(queue: TaskQueue) -> dict[str, Any]:
    answers: Counter[str] = Counter()
    for task in await queue.find(limit=10_000):
        answers[await outcome(lambda t=task: queue.cancel(t.id))] += 1
        answers[await outcome(lambda t=task: queue.retry(t.id))] += 1
        await outcome(lambda t=task: queue.cancel(t.id))
    return {"answers": answers, "purged": await queue.purge(), "left": len(await queue.find())}


async def warm_up(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with new_worker(backend):
        for function in (echo, fails):
            task = await queue.enqueue(function, 1)
            await queue.get_result(task, 30)
            await outcome(lambda h=task: h.result(30))
    await queue.enqueue(echo.using(delay=3600), 2)
    await read_all(queue)
    await clear_all(queue)


async def next_line() -> None:
    await anyio.to_thread.run_sync(sys.stdin.readline)


def say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


async def live(path: str) -> None:
    backend = SQLiteBackend(path, synchronous="NORMAL")
    async with TaskQueue(backend) as queue:
        await warm_up(backend, queue)
        reserve = backend.reserve

        async def counted(*args: Any) -> float | None:
            asked.append(1)
            return await reserve(*args)

        backend.reserve = counted  # type: ignore[method-assign]
        say({"peak": peak()})
        await next_line()
        sys.addaudithook(watch)
        watching.append(True)
        async with new_worker(backend):
            await next_line()
            asked.clear()
            await anyio.sleep(3 * LEASE)  # of nothing to do
            say({"asked": len(asked)})
            await next_line()
            say(await read_all(queue))
        await next_line()
        say(await clear_all(queue))


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)
    anyio.run(live, sys.argv[1], backend=sys.argv[2])

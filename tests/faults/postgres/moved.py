"""A process whose wall clock is wrong: it works on one queue, and enqueues in another.

``python -m tests.faults.postgres.moved SECONDS URL SCHEMA LOOP OWN OTHER MOMENT``. The moment is in
seconds since 1970, and right. It stops when its input ends.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

import anyio
import anyio.to_thread

from sitq import Registry, TaskQueue, Worker
from sitq.backends.postgres import PostgresBackend

registry = Registry()
LEASE = 0.6


@registry.task(name="takes")
async def takes(seconds: float) -> float:
    await anyio.sleep(seconds)
    return time.time()


async def live(url: str, schema: str, own: str, other: str, moment: float) -> None:
    at = datetime.fromtimestamp(moment, UTC)
    backend = PostgresBackend(url, schema=schema)
    async with (
        TaskQueue(backend) as queue,
        Worker(backend, registry=registry, queues=[own], lease=LEASE),
    ):
        await queue.enqueue(takes.using(queue=other, key=f"long {own}"), 2.0)
        await queue.enqueue(takes.using(queue=other, key=f"plain {own}"), 0.0)
        await queue.enqueue(takes.using(queue=other, delay=1.0, key=f"delayed {own}"), 0.0)
        await queue.enqueue(takes.using(queue=other, run_at=at, key=f"at {own}"), 0.0)
        await queue.enqueue(takes.using(queue="nobody", deadline=at, key=f"late {own}"), 0.0)
        await anyio.to_thread.run_sync(sys.stdin.read)


def move(seconds: float) -> None:
    """Set the clock of this machine, as far as this process can see."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


if __name__ == "__main__":
    _, seconds, url, schema, loop, own, other, moment = sys.argv
    move(float(seconds))
    anyio.run(live, url, schema, own, other, float(moment), backend=loop)

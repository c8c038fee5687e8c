"""Functions that keep a processor busy: each runs in a process, beside others that only wait."""

import math
import os
import time

import anyio

from sitq import SQLiteBackend, TaskQueue, Worker, task
from sitq.errors import TaskFailed

CORES = os.cpu_count() or 1


@task(queue="heavy", executor="process")
def primes_between(low: int, high: int) -> int:
    return sum(all(n % d for d in range(2, math.isqrt(n) + 1)) for n in range(low, high))


@task(queue="heavy", executor="process", timeout=1)
def never_ends() -> None:
    while True:
        pass


@task
async def ping() -> float:
    return time.monotonic()


async def main() -> None:
    backend = SQLiteBackend(":memory:")
    async with (
        TaskQueue(backend) as queue,
        Worker(backend, queues=["default"]),
        Worker(backend, queues=["heavy"], max_concurrency=CORES),
    ):
        steps = range(2, 60_002, 10_000)
        heavy = [await queue.enqueue(primes_between, low, low + 10_000) for low in steps]

        asked = time.monotonic()
        answered = await (await queue.enqueue(ping)).result()
        late = "at once" if answered - asked < 1 else "late"
        print(f"the event loop answers {late} beside {len(heavy)} heavy tasks")

        print(f"{sum([await handle.result() for handle in heavy]):,} primes")

        try:
            await (await queue.enqueue(never_ends)).result()
        except TaskFailed as error:
            print(f"killed: {error}")


if __name__ == "__main__":  # its processes import this file too
    anyio.run(main)

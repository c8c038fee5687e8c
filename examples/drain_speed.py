"""How fast one worker drains a queue of tasks that do nothing, on the machine it runs on."""

import argparse
import tempfile
import time
from pathlib import Path

import anyio

from sitq import SQLiteBackend, TaskQueue, Worker, task

TASKS = 20_000


@task
async def nothing() -> None:
    pass


async def unfinished(queue: TaskQueue) -> bool:
    counts = await queue.counts()
    return counts["pending"] + counts["running"] > 0


async def drain(database: Path) -> None:
    backend = SQLiteBackend(database, synchronous="NORMAL")
    async with TaskQueue(backend) as queue:
        handles = await queue.enqueue_many([nothing.call()] * TASKS)
        started = time.perf_counter()
        async with Worker(backend, max_concurrency=100):
            await handles[-1].result()
            for handle in handles[-200:]:  # those beside the last one
                await handle.result()
            while await unfinished(queue):
                await anyio.sleep(0.001)
            seconds = time.perf_counter() - started
        succeeded = (await queue.counts())["succeeded"]
    print(f"{succeeded} tasks in {seconds:.2f} s: {succeeded / seconds:,.0f} tasks/s")


def main() -> None:
    parser = argparse.ArgumentParser(description="Drain 20,000 tasks with one worker.")
    parser.add_argument("--backend-loop", choices=["asyncio", "trio"], default="asyncio")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(drain, Path(folder, "tasks.db"), backend=options.backend_loop)


if __name__ == "__main__":
    main()

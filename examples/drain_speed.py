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


async def all_done(queue: TaskQueue) -> None:
    """Wait for the tasks that are left, not for each of the many in turn."""
    for state in ("pending", "running"):
        while left := await queue.find(state=state, limit=10_000):
            await queue.handle(left[-1].id).result()


async def drain(database: Path, tasks: int) -> None:
    backend = SQLiteBackend(database, synchronous="NORMAL")
    async with TaskQueue(backend) as queue:
        handles = await queue.enqueue_many([nothing.call()] * tasks)
        started = time.perf_counter()
        async with Worker(backend, max_concurrency=100):
            await handles[-1].result()
            await all_done(queue)
            seconds = time.perf_counter() - started
        succeeded = (await queue.counts())["succeeded"]
    print(f"{succeeded} tasks in {seconds:.2f} s: {succeeded / seconds:,.0f} tasks/s")


def main() -> None:
    parser = argparse.ArgumentParser(description="Drain many tasks with one worker.")
    parser.add_argument("--backend-loop", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--tasks", metavar="N", type=int, default=TASKS, help="how many tasks")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(drain, Path(folder, "tasks.db"), options.tasks, backend=options.backend_loop)


if __name__ == "__main__":
    main()

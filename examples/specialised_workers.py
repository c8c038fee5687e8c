"""Queues: one worker for many light tasks at a time, another one for few heavy ones."""

import tempfile
from collections import Counter
from pathlib import Path

import anyio

from sitq import SQLiteBackend, TaskQueue, Worker, current_task, task

running: Counter[str] = Counter()
most: Counter[str] = Counter()


@task(queue="light")
async def fetch(page: int) -> int:
    await work()
    return page


@task(queue="heavy")
async def render(page: int) -> int:
    await work()
    return page


async def work() -> None:
    queue = current_task().queue
    running[queue] += 1
    most[queue] = max(most[queue], running[queue])
    await anyio.sleep(0.02)
    running[queue] -= 1


async def main(database: Path) -> None:
    backend = SQLiteBackend(database)
    async with TaskQueue(backend) as queue:
        light = await queue.enqueue_many([fetch.call(page) for page in range(40)])
        heavy = await queue.enqueue_many([render.call(page) for page in range(6)])

        async with Worker(backend, queues=["light"], max_concurrency=20):
            for handle in light:
                await handle.result()
            waiting = (await queue.counts("heavy"))["pending"]
            print(f"the light tasks are done, {waiting} heavy ones wait for their worker")

            async with Worker(backend, queues=["heavy"], max_concurrency=2):
                for handle in heavy:
                    await handle.result()
        print(f"at most {most['light']} light and {most['heavy']} heavy tasks ran at a time")


with tempfile.TemporaryDirectory() as folder:
    anyio.run(main, Path(folder, "tasks.db"))

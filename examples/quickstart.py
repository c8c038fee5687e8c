"""The shortest whole program: declare a function, store a call of it, run it, read the result."""

import anyio

from sitq import SQLiteBackend, TaskQueue, Worker, task


@task
async def add(a: int, b: int) -> int:
    return a + b


async def main() -> None:
    backend = SQLiteBackend(":memory:")  # a path, such as "tasks.db", keeps the tasks
    async with TaskQueue(backend) as queue, Worker(backend):
        handle = await queue.enqueue(add, 2, 3)
        print("2 + 3 =", await handle.result(timeout=5))


anyio.run(main)

"""A block whose children are tasks: it ends when they have, and one that fails ends the others."""

import anyio

from sitq import SQLiteBackend, TaskQueue, Worker, task
from sitq.errors import TaskFailed

backend = SQLiteBackend(":memory:")
queue = TaskQueue(backend)


@task
async def weigh(parcel: str) -> int:
    await anyio.sleep(0.01)
    if parcel == "lead":
        raise OverflowError("the scales end at 100 kg")
    return len(parcel)


@task
async def weigh_all(parcels: list[str]) -> int:
    """A task that waits for others, and needs no slot of the worker while it does."""
    async with queue.task_group() as tg:
        handles = await tg.enqueue_many([weigh.call(parcel) for parcel in parcels])
    return sum([await handle.result() for handle in handles])


async def main() -> None:
    async with queue, Worker(backend, max_concurrency=1):
        total = await queue.enqueue(weigh_all, ["books", "tea", "a lamp"])
        print("together", await total.result(timeout=10))

        async with queue.task_group() as tg:
            for parcel in ("cork", "paper"):
                await tg.enqueue(weigh, parcel)
            async for handle in tg.as_completed():
                print("weighed", await handle.result())

        async with queue.map(weigh, ["a", "bb", "ccc"]) as weights:
            print("in order", [weight async for weight in weights])

        try:
            async with queue.task_group() as tg:
                await tg.enqueue(weigh.using(delay=60), "never weighed")
                await tg.enqueue(weigh, "lead")
        except* TaskFailed as failures:
            for failure in failures.exceptions:
                print("failed:", failure.result.error.message)
        print(await queue.counts())


anyio.run(main)

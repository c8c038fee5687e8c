"""A worker as one more child of a trio nursery."""

import trio

from sitq import SQLiteBackend, TaskQueue, Worker, task


@task
async def shout(word: str) -> str:
    await trio.sleep(0.01)
    return word.upper()


async def main() -> None:
    backend = SQLiteBackend(":memory:")
    async with TaskQueue(backend) as queue, trio.open_nursery() as nursery:
        worker = Worker(backend)
        await nursery.start(worker.run)  # returns once the worker runs

        handles = await queue.enqueue_many([shout.call(word) for word in ("one", "two", "three")])
        print([await handle.result() for handle in handles])

        await worker.stop()  # gracefully; then the nursery has no children left and ends
    print("the nursery is closed")


trio.run(main)

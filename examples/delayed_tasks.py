"""Tasks for later: after a delay, or at a moment."""

from datetime import UTC, datetime, timedelta

import anyio

from sitq import SQLiteBackend, TaskQueue, Worker, task


@task
async def remind(what: str) -> str:
    return what


async def main() -> None:
    backend = SQLiteBackend(":memory:")
    async with TaskQueue(backend) as queue, Worker(backend):
        moment = datetime.now(UTC) + timedelta(seconds=0.6)
        handles = await queue.enqueue_many(
            [
                remind.using(run_at=moment).call("at its moment"),
                remind.using(delay=0.3).call("after a delay"),
                remind.call("at once"),
            ]
        )
        results = [await queue.get_result(handle, timeout=10) for handle in handles]

    for result in sorted(results, key=lambda result: result.started_at):
        waited = (result.started_at - result.enqueued_at).total_seconds()
        print(f"{result.value}: started {waited:.1f} s after it was enqueued")


anyio.run(main)

"""Retries: how often, how soon, and after which errors."""

import anyio

from sitq import Retry, SQLiteBackend, TaskQueue, Worker, current_task, task
from sitq.errors import TaskFailed


@task(retry=Retry(attempts=5, base=0.05, factor=2, retry_on=[ConnectionError]))
async def fetch(url: str) -> str:
    attempt = current_task().attempt
    if attempt < 3:
        raise ConnectionError(f"{url} does not answer")
    return f"{url} answered at attempt {attempt}"


@task(retry=Retry(attempts=5, base=0.05, give_up_on=[ValueError]))
async def parse(text: str) -> int:
    return int(text)


async def main() -> None:
    backend = SQLiteBackend(":memory:")
    async with TaskQueue(backend) as queue, Worker(backend):
        fetched = await queue.enqueue(fetch, "example.org")
        print(await fetched.result(timeout=10))

        parsed = await queue.enqueue(parse, "many")
        try:
            await parsed.result(timeout=10)
        except TaskFailed as failed:
            error = failed.result.error
            print(f"given up after {failed.result.attempts} attempt: {error.type}")


anyio.run(main)

"""A queue and a worker that live as long as a web application does.

`lifespan` has the shape that FastAPI and Starlette take: ``FastAPI(lifespan=lifespan)``. A small
application of our own stands in for theirs here, so that nothing else needs to be installed.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from sitq import SQLiteBackend, TaskQueue, Worker, task


@task
async def send_welcome(name: str) -> str:
    return f"Welcome, {name}!"


class App:
    state: dict[str, Any]


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[dict[str, Any]]:
    backend = SQLiteBackend(":memory:")
    async with TaskQueue(backend) as queue, Worker(backend, grace=10):
        yield {"queue": queue}  # handlers find it as request.state.queue


async def sign_up(app: App, name: str) -> str:
    """A request handler: it stores the task and answers with its id."""
    handle = await app.state["queue"].enqueue(send_welcome, name)
    return str(handle.id)


async def look_up(app: App, id: str) -> str:
    """Another one: it says how a task ended."""
    result = await app.state["queue"].get_result(id, timeout=5)
    return "not yet" if result is None else str(result.value)


async def main() -> None:
    app = App()
    async with lifespan(app) as app.state:
        id = await sign_up(app, "Ada")
        print(await look_up(app, id))
    print("the application has stopped")


anyio.run(main)

"""A web application that enqueues tasks and tells what became of them; and a worker for it.

    pip install fastapi uvicorn
    uvicorn fastapi_app:app                             # with a worker in the application
    TASKS_WORKER=elsewhere uvicorn fastapi_app:app      # or without one,
    python fastapi_app.py                               # and with as many of these as you like

Both keep their tasks in TASKS_URL: tasks.db, unless you name another file or a server.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

import anyio
from fastapi import FastAPI, HTTPException, Query

from sitq import TaskQueue, Worker, backend_from_url, task

backend = backend_from_url(os.environ.get("TASKS_URL", "sqlite:///tasks.db"))
queue = TaskQueue(backend)


@task
async def send_welcome(name: str) -> str:
    await anyio.sleep(0.05)  # here the mail would be sent
    return f"Welcome, {name}!"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with queue:
        if os.environ.get("TASKS_WORKER") == "elsewhere":
            yield
        else:
            async with Worker(backend, grace=10):
                yield


app = FastAPI(lifespan=lifespan)
Seconds = Annotated[float, Query(ge=0, le=30)]


@app.post("/welcomes/{name}", status_code=202)
async def welcome(name: str) -> dict[str, str]:
    handle = await queue.enqueue(send_welcome, name)
    return {"id": str(handle.id)}


@app.get("/welcomes/{id}")
async def look_up(id: UUID, wait: Seconds = 0) -> dict[str, str | None]:
    result = await queue.get_result(id, timeout=wait)
    if result is not None:
        return {"state": result.state, "text": result.value}
    found = await queue.get(id)
    if found is None:
        raise HTTPException(404, "no such task")
    return {"state": found.state, "text": None}


if __name__ == "__main__":
    anyio.run(lambda: Worker(backend).run(handle_signals=True))

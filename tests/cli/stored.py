"""A store with tasks in every state, as workers and callers have left it."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import anyio

from sitq import Registry, Retry, SQLiteBackend, TaskQueue, backend_from_url, lifecycle
from sitq.backends.base import Backend, Wanted
from sitq.failure import describe, pack_error
from sitq.model import Note, Outcome, OutcomeKind, Reservation, State, WorkerRecord
from sitq.serialization import default_serializer

__all__ = ["ERROR", "Stored", "backend_at", "fill", "on_backend"]

T = TypeVar("T")

registry = Registry()
RETRY = Retry(attempts=1)


@registry.task(name="shop.fetch", queue="io")
async def fetch(url: str, times: int = 1) -> None:
    raise NotImplementedError


@registry.task(name="shop.sell")
async def sell(what: str) -> None:
    raise NotImplementedError


def _error() -> Exception:
    try:
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            members = [ValueError("the first\nmember"), OSError("the second member")]
            group = ExceptionGroup("two of them", members)
            group.add_note("a note of it")
            raise group from cause
    except ExceptionGroup as error:
        return error


ERROR = _error()


@dataclass(frozen=True)
class Stored:
    """The ids of the tasks, by what became of them."""

    place: Path | str
    """The path or the URL of the store."""
    pending: UUID
    later: UUID
    running: UUID
    succeeded: UUID
    failed: UUID
    cancelled: UUID


def backend_at(place: Path | str) -> Backend:
    """The backend of a path, or of a URL."""
    if isinstance(place, Path):
        return SQLiteBackend(place, synchronous="NORMAL")
    return backend_from_url(place)


def on_backend(place: Path | str, work: Callable[[Backend], Awaitable[T]]) -> T:
    """Do this with a store."""

    async def opened() -> T:
        async with backend_at(place) as backend:
            return await work(backend)

    return anyio.run(opened)


def fill(place: Path | str) -> Stored:
    """Store them."""
    return on_backend(place, lambda backend: _fill(backend, place))


async def _fill(backend: Backend, place: Path | str) -> Stored:
    queue = TaskQueue(backend)

    async def enqueue(what: str, **options: Any) -> UUID:
        return (await queue.enqueue(sell.using(**options), what)).id

    succeeded = await enqueue("succeeded")
    failed = await enqueue("failed")
    running = (await queue.enqueue(fetch.using(priority=5), "https://example.org", times=2)).id
    worker = await backend.hire(WorkerRecord("here", 7, None, 10, 600.0))
    held: dict[UUID, Reservation] = {}
    await backend.reserve(
        worker, Wanted(3, None), lambda runs: held.update((UUID(bytes=run.id), run) for run in runs)
    )
    note = Note(held[running].seq, held[running].fence, 3.0, 4.0, "nearly", await backend.now())
    await backend.progress(worker, [note])
    value = default_serializer.dumps({"sold": ["a", ("b", 1)]})
    await _end(backend, worker, held[succeeded], Outcome(OutcomeKind.SUCCEEDED, value=value))
    error = pack_error(describe(ERROR))
    await _end(backend, worker, held[failed], Outcome(OutcomeKind.FAILED, error=error))
    cancelled = await enqueue("cancelled", key="the key")
    await queue.cancel(cancelled)
    pending = await enqueue("pending", key="the key")
    later = await enqueue("later", delay=300, queue="later")
    return Stored(place, pending, later, running, succeeded, failed, cancelled)


async def _end(backend: Backend, worker: int, run: Reservation, outcome: Outcome) -> None:
    now = await backend.now()
    change = lifecycle.settle(run, RETRY, outcome, now, random.Random(0), cancel_requested=False)
    assert change is not None
    assert change.state in (State.SUCCEEDED, State.FAILED)
    assert await backend.settle(worker, [change]) == {run.seq}

"""A worker, others who enqueue, and whom the server sees of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import psycopg

from sitq import Registry, TaskQueue, Worker
from sitq.backends.postgres import PostgresBackend

from ...postgres import server_url

__all__ = ["Company", "company", "notes", "registry", "runs"]

registry = Registry()
runs: list[str] = []
KINDS = {
    "listener": "query LIKE 'LISTEN%%'",
    "heartbeat": "query LIKE '%%SET beat%%'",
    "pool": "query NOT LIKE 'LISTEN%%' AND query NOT LIKE '%%.worker SET beat%%'",
    "all": "true",
}


@registry.task(name="notes")
async def notes(text: str) -> str:
    runs.append(text)
    return text


@dataclass
class Company:
    """A worker behind a line of its own, and a queue of others."""

    backend: PostgresBackend
    """The worker's."""
    others: TaskQueue
    """Through another backend, on another line."""
    stranger: psycopg.Connection[Any]
    name: str
    """By which the server knows the connections of the worker's backend."""

    def pids(self, kind: str) -> list[int]:
        """The processes of the server behind its connections of a kind."""
        query = f"SELECT pid FROM pg_stat_activity WHERE application_name = %s AND {KINDS[kind]}"
        return [pid for (pid,) in self.stranger.execute(query, (self.name,))]

    async def terminate(self, kind: str) -> int:
        """End its connections of a kind, when there are any. Returns how many."""
        with anyio.fail_after(10):
            while not (pids := self.pids(kind)):
                await anyio.sleep(0.01)
        for pid in pids:
            self.stranger.execute("SELECT pg_terminate_backend(%s)", (pid,))
        return len(pids)

    async def runs_soon(self, text: str, seconds: float = 8.0) -> None:
        """What others enqueue now has run in that time."""
        with anyio.fail_after(30):
            await self.others.enqueue(notes, text)
        with anyio.fail_after(seconds):
            while text not in runs:
                await anyio.sleep(0.01)


@asynccontextmanager
async def company(url: str, schema: str, **options: Any) -> AsyncGenerator[Company]:
    """A worker that looks by itself only every 30 seconds, while the block lasts.

    Args:
        url: the line of the worker.
        schema: of the store.
        options: of the worker, ``lease``; and of its backend.
    """
    runs.clear()
    lease = options.pop("lease", 1.5)
    backend = PostgresBackend(f"{url}?application_name={schema}", schema=schema, **options)
    separator = "&" if "?" in server_url() else "?"
    other = PostgresBackend(f"{server_url()}{separator}application_name=other", schema=schema)
    with psycopg.connect(server_url(), autocommit=True) as stranger:
        async with TaskQueue(other) as others:
            worker = Worker(
                backend, registry=registry, lease=lease, poll_interval=30, grace=1, retention=None
            )
            async with worker:
                yield Company(backend, others, stranger, schema)

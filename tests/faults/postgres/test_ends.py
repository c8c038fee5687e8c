"""Backends that are closed, dropped, or never came to be leave nothing behind, and say why."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import anyio
import psycopg
import pytest

from sitq import TaskQueue
from sitq.backends.postgres import PostgresBackend
from sitq.errors import StoreError, StoreUnavailable, StoreUnusable

from ...postgres import backend_at, server_url, url_with
from ..checkpoints import nothing_leaked
from .company import notes
from .proxy import Proxy

pytestmark = pytest.mark.anyio


@pytest.fixture
def stranger() -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server_url(), autocommit=True) as connection:
        yield connection


def sockets() -> int:
    number = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            number += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return number


def named(schema: str) -> str:
    separator = "&" if "?" in server_url() else "?"
    return f"{server_url()}{separator}application_name={schema}"


async def gone(stranger: psycopg.Connection[Any], schema: str) -> None:
    """Wait until the server knows of no connection of this backend, and no thread is left."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    with anyio.fail_after(10):
        while stranger.execute(query, (schema,)).fetchone() != (0,):
            await anyio.sleep(0.01)
        while [one.name for one in threading.enumerate() if one.name.startswith("sitq")]:
            await anyio.sleep(0.01)


@pytest.mark.parametrize("times", [1, 3])
async def test_after_close(times: int, stranger: psycopg.Connection[Any], schema: str) -> None:
    async with nothing_leaked():
        before = sockets()
        backend = PostgresBackend(named(schema), schema=schema)
        for _ in range(times):
            async with TaskQueue(backend) as queue, anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(queue.enqueue, notes, str(number))
                    group.start_soon(queue.counts)
            await gone(stranger, schema)
        assert sockets() == before


async def test_after_it_was_dropped(stranger: psycopg.Connection[Any], schema: str) -> None:
    async with nothing_leaked():
        backend = PostgresBackend(named(schema), schema=schema)
        await TaskQueue(backend).enqueue(notes, "text")
        del backend
        await gone(stranger, schema)


def test_after_its_loop_has_ended(stranger: psycopg.Connection[Any], schema: str) -> None:
    backend = PostgresBackend(named(schema), schema=schema)
    for loop in ("asyncio", "trio", "asyncio"):
        anyio.run(TaskQueue(backend).enqueue, notes, "text", backend=loop)
    del backend
    gc.collect()  # what trio keeps of its last run
    anyio.run(gone, stranger, schema)


@pytest.mark.parametrize(
    ("url", "kind", "says"),
    [
        ("postgresql://127.0.0.1:1/nowhere", StoreUnavailable, "refused"),
        ("postgresql://nobody@no.such.host.invalid/nowhere", StoreUnavailable, "no.such.host"),
        ("database", StoreUnusable, "no_such_database.*check the address"),
        ("role", StoreUnusable, "no_such_role.*check the address"),
    ],
    ids=["port", "host", "database", "role"],
)
async def test_after_a_failed_open(
    url: str, kind: type[StoreError], says: str, schema: str
) -> None:
    if url == "database":
        url = url_with(database="no_such_database")
    elif url == "role":
        url = url_with("no_such_role", "secret")
    async with nothing_leaked():
        before = sockets()
        for _ in range(3):
            backend = PostgresBackend(url, schema=schema, outage_limit=1)
            with anyio.fail_after(5), pytest.raises(kind, match=rf"(?s){says}") as info:
                await backend.open()
            assert "secret" not in str(info.value)
        assert sockets() == before


async def test_a_server_that_refuses(proxy: Proxy, schema: str) -> None:
    """Work waits for it within the outage limit, and says so behind that."""
    backend = PostgresBackend(proxy.url, schema=schema, answer_limit=2, outage_limit=1)
    async with TaskQueue(backend) as queue:
        await queue.enqueue(notes, "one")
        proxy.refuse()
        proxy.cut()
        with anyio.fail_after(6), pytest.raises(StoreUnavailable, match="try again later"):
            await queue.enqueue(notes, "two")
        proxy.accept()
        with anyio.fail_after(6):
            await queue.enqueue(notes, "three")
        assert sum((await queue.counts()).values()) == 2


async def test_cancelled_while_it_opens(proxy: Proxy, schema: str) -> None:
    async with backend_at(schema):
        pass
    proxy.swallow()
    async with nothing_leaked():
        backend = PostgresBackend(proxy.url, schema=schema, answer_limit=1)
        with anyio.move_on_after(0.2) as scope:
            await backend.open()
        assert scope.cancelled_caught
        proxy.heal()
        async with backend:
            assert sum((await backend.counts()).values()) == 0
        proxy.cut()

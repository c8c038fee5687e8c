"""Enqueueing in a transaction of one's own, on PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest
from psycopg.rows import dict_row

from sitq import PostgresBackend, SQLiteBackend, State, TaskQueue, Worker
from sitq.errors import InvalidOption, NotSerializable, UsageError
from sitq.model import NewTask

from ..groups import functions as f
from ..postgres import backend_at, fresh_schema, server_url

pytestmark = pytest.mark.anyio


@pytest.fixture
async def backend(schema: str, anyio_backend: str) -> AsyncIterator[PostgresBackend]:
    async with backend_at(schema) as made:
        yield made


@pytest.fixture
def queue(backend: PostgresBackend) -> TaskQueue:
    return TaskQueue(backend)


class Both:
    """A connection of either kind, used alike."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def __call__(self, name: str, *values: Any) -> Any:
        return await self._done(getattr(self.connection, name)(*values))

    async def rows(self, query: str) -> list[Any]:
        cursor = await self("execute", query)
        return await self._done(cursor.fetchall())

    async def _done(self, result: Any) -> Any:
        return await result if isinstance(self.connection, psycopg.AsyncConnection) else result


@asynccontextmanager
async def connected(kind: str, **options: Any) -> AsyncIterator[Both]:
    if kind == "sync":
        with psycopg.connect(server_url(), **options) as connection:
            yield Both(connection)
    else:
        async with await psycopg.AsyncConnection.connect(server_url(), **options) as connection:
            yield Both(connection)


@pytest.fixture(params=["sync", "async"])
async def both(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[Both]:
    if request.param == "async" and anyio_backend == "trio":
        pytest.skip("psycopg's AsyncConnection runs on asyncio only")
    async with connected(request.param) as made:
        yield made


async def test_committed_together(both: Both, queue: TaskQueue, schema: str) -> None:
    await both("execute", f"CREATE TABLE {schema}.users (name text)")
    await both("execute", f"INSERT INTO {schema}.users VALUES ('anna')")
    handle = await queue.enqueue(f.echo.using(connection=both.connection), "x")
    many = [f.echo.using(connection=both.connection).call(n) for n in range(3)]
    handles = await queue.enqueue_many(many)
    assert await queue.counts() == dict.fromkeys(State, 0)
    await both("commit")
    assert [task.id for task in await queue.find()] == [h.id for h in (handle, *handles)]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_cursors_of_another_kind(queue: TaskQueue, kind: str, anyio_backend: str) -> None:
    """What the connection makes is not what is used: Django's are bound by the client."""
    if (kind, anyio_backend) == ("async", "trio"):
        pytest.skip("psycopg's AsyncConnection runs on asyncio only")
    factory = psycopg.ClientCursor if kind == "sync" else psycopg.AsyncClientCursor
    async with connected(kind, cursor_factory=factory, row_factory=dict_row) as both:
        many = [f.echo.using(connection=both.connection).call(n) for n in range(3)]
        handles = await queue.enqueue_many(many)
        await both("commit")
    assert [task.id for task in await queue.find()] == [handle.id for handle in handles]


async def test_rolled_back_together(both: Both, queue: TaskQueue) -> None:
    await queue.enqueue(f.echo.using(connection=both.connection, key="k"), "x")
    await both("rollback")
    assert await queue.find() == []
    await queue.enqueue(f.echo.using(key="k"), "y")


async def test_what_fails_leaves_the_transaction_usable(
    both: Both, queue: TaskQueue, backend: PostgresBackend, schema: str
) -> None:
    await both("execute", f"CREATE TABLE {schema}.users (name text)")
    ours = f.echo.using(connection=both.connection)
    with pytest.raises(NotSerializable):
        await queue.enqueue(ours, object())
    handle = await queue.enqueue(ours, 1)
    assert await both.rows(f"SELECT id FROM {schema}.task") == [(handle.id,)]
    with pytest.raises(psycopg.errors.UniqueViolation):
        await backend.insert_within(both.connection, [_again(handle.id.bytes)])
    await both("execute", f"INSERT INTO {schema}.users VALUES ('anna')")
    await both("commit")
    assert len(await queue.find()) == 1


def _again(id: bytes) -> NewTask:
    return NewTask(id, "echo", "default", 0, 0.0, None, None, None, None, b"", 0.0)


async def test_keys(both: Both, queue: TaskQueue) -> None:
    first = await queue.enqueue(f.echo.using(key="k"), 1)
    ours = f.echo.using(connection=both.connection)
    second, third, again = await queue.enqueue_many(
        [ours.using(key="k").call(2), ours.using(key="l").call(3), ours.using(key="l").call(4)]
    )
    assert second.id == first.id
    assert third.id == again.id
    await both("commit")
    assert len(await queue.find()) == 2


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_how_the_caller_reads_does_not_matter(
    kind: str, queue: TaskQueue, anyio_backend: str
) -> None:
    if kind == "async" and anyio_backend == "trio":
        pytest.skip("psycopg's AsyncConnection runs on asyncio only")
    async with connected(kind, row_factory=dict_row, prepare_threshold=0) as both:
        ours = f.echo.using(connection=both.connection, key="k")
        assert (await queue.enqueue(ours, 1)).id == (await queue.enqueue(ours, 2)).id
        await both("commit")
    assert len(await queue.find()) == 1


async def test_no_transaction(queue: TaskQueue) -> None:
    async with connected("sync", autocommit=True) as both:
        ours = f.echo.using(connection=both.connection)
        with pytest.raises(UsageError, match="no transaction is open"):
            await queue.enqueue(ours, 1)
        with both.connection.transaction():
            await queue.enqueue(ours, 1)
        with pytest.raises(psycopg.errors.DivisionByZero), both.connection.transaction():
            await queue.enqueue(ours, 2)
            both.connection.execute("SELECT 1 / 0")
    assert len(await queue.find()) == 1


async def test_a_failed_transaction_and_a_closed_connection(queue: TaskQueue) -> None:
    async with connected("sync") as both:
        ours = f.echo.using(connection=both.connection)
        with pytest.raises(psycopg.errors.SyntaxError):
            both.connection.execute("nonsense")
        with pytest.raises(UsageError, match="has failed"):
            await queue.enqueue(ours, 1)
        both.connection.close()
        with pytest.raises(UsageError, match="closed"):
            await queue.enqueue(ours, 1)


async def test_another_database(queue: TaskQueue, tmp_path: Any) -> None:
    with fresh_schema() as elsewhere:
        async with backend_at(elsewhere) as other, connected("sync") as both:
            await both("execute", "SELECT 1")
            await TaskQueue(other).enqueue(f.echo.using(connection=both.connection), 1)
            await both("execute", f"DROP SCHEMA {elsewhere} CASCADE")
            with pytest.raises(InvalidOption, match="another database"):
                await TaskQueue(other).enqueue(f.echo.using(connection=both.connection), 1)
            await both("rollback")
    async with connected("sync") as both, SQLiteBackend(tmp_path / "t.db") as file:
        with pytest.raises(InvalidOption, match="sqlite3 or aiosqlite"):
            await TaskQueue(file).enqueue(f.echo.using(connection=both.connection), 1)


async def test_other_things_are_no_connection(queue: TaskQueue) -> None:
    with pytest.raises(InvalidOption, match="of psycopg"):
        await queue.enqueue(f.echo.using(connection=sqlite3.connect(":memory:")), 1)


async def test_a_worker_finds_it_after_the_commit_alone(
    both: Both, backend: PostgresBackend
) -> None:
    queue = TaskQueue(backend)
    f.noted.clear()
    f.queues[:] = [queue]
    with anyio.fail_after(20):
        async with Worker(backend, registry=f.registry, poll_interval=0.05):
            kept = await queue.enqueue(f.echo.using(connection=both.connection), "kept")
            await anyio.sleep(0.3)
            assert await queue.get(kept) is None
            await both("commit")
            assert await kept.result(10) == "kept"
            dropped = await queue.enqueue(f.echo.using(connection=both.connection), "dropped")
            await both("rollback")
            await anyio.sleep(0.3)
            assert await queue.get(dropped) is None

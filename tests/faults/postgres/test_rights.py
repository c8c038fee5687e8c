"""Roles that may do little, schemas that are new, newer, or not there."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import psycopg
import pytest

from sitq import TaskQueue, Worker
from sitq.backends.postgres import PostgresBackend
from sitq.errors import SitqError, StoreError, StoreUnusable, StoreVersionError

from ...postgres import backend_at, server_url, url_with
from .company import notes, registry, runs
from .stage import Stage, make_template
from .verbs import PLAIN_READS, WRITES

pytestmark = pytest.mark.anyio


@pytest.fixture
def owner() -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server_url(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def role(owner: psycopg.Connection[Any], schema: str) -> Iterator[str]:
    """A role that may do nothing."""
    owner.execute(f"CREATE ROLE {schema} LOGIN PASSWORD 'secret'")
    yield schema
    owner.execute(f"DROP OWNED BY {schema}")
    owner.execute(f"DROP ROLE {schema}")


def backend_of(role: str, schema: str) -> PostgresBackend:
    return PostgresBackend(url_with(role, "secret"), schema=schema)


def grant(owner: psycopg.Connection[Any], role: str, schema: str) -> None:
    owner.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    rights = "SELECT, INSERT, UPDATE, DELETE"
    owner.execute(f"GRANT {rights} ON ALL TABLES IN SCHEMA {schema} TO {role}")
    owner.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}")


async def test_a_role_that_only_reads_and_writes_the_tables(
    owner: psycopg.Connection[Any], role: str, schema: str
) -> None:
    template = await make_template(schema)
    grant(owner, role, schema)
    async with backend_of(role, schema) as backend:
        for verb, start in {**WRITES, **PLAIN_READS}.items():
            template.restore(owner)
            with anyio.fail_after(20):
                try:
                    await start(Stage(template, backend, owner))
                except StoreError as error:
                    pytest.fail(f"{verb}: {error}")
                except SitqError:
                    pass
        template.restore(owner)
        runs.clear()
        async with Worker(backend, registry=registry, queues=["mine"], lease=0.3):
            handle = await TaskQueue(backend).enqueue(notes.using(queue="mine"), "text")
            assert await handle.result(20) == "text"
            await anyio.sleep(0.3)  # some beats and sweeps


async def test_a_role_that_may_not_make_tables(role: str, schema: str) -> None:
    with pytest.raises(StoreUnusable, match=rf"{schema}.*permission denied.*rights"):
        await backend_of(role, schema).open()


async def test_a_role_that_may_not_see_the_schema(role: str, schema: str) -> None:
    async with backend_at(schema):
        pass
    with pytest.raises(StoreUnusable, match=r"permission denied.*rights"):
        await backend_of(role, schema).open()


async def test_a_role_that_may_only_read(
    owner: psycopg.Connection[Any], role: str, schema: str
) -> None:
    async with backend_at(schema):
        pass
    owner.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    owner.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}")
    async with TaskQueue(backend_of(role, schema)) as queue:
        assert sum((await queue.counts()).values()) == 0
        with pytest.raises(StoreUnusable, match=r"permission denied.*rights"):
            await queue.enqueue(notes, "text")


@pytest.mark.parametrize(
    "setting",
    [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_isolation = 'repeatable read'",
        "client_encoding = 'latin1'",
        "TimeZone = 'Asia/Kolkata'",
        "DateStyle = 'German'",
        "search_path = 'nowhere'",
        "bytea_output = 'escape'",
    ],
)
async def test_a_role_with_settings_of_its_own(
    setting: str, owner: psycopg.Connection[Any], role: str, schema: str
) -> None:
    async with backend_at(schema):
        pass
    grant(owner, role, schema)
    owner.execute(f"ALTER ROLE {role} SET {setting}")
    runs.clear()
    texts = [f"\u20ac {number}" for number in range(20)]
    async with backend_of(role, schema) as backend, backend_of(role, schema) as other:
        queue = TaskQueue(backend)
        async with Worker(backend, registry=registry), Worker(other, registry=registry):
            async with anyio.create_task_group() as group:
                for text in texts * 2:
                    group.start_soon(queue.enqueue, notes.using(key=text), text)
            with anyio.fail_after(20):
                while set(runs) != set(texts):
                    await anyio.sleep(0.01)
        assert {task.key for task in await queue.find()} == set(texts)


def test_many_open_an_empty_schema(schema: str) -> None:
    async def enqueue(number: int) -> str:
        async with TaskQueue(backend_at(schema)) as queue:
            await queue.enqueue(notes.using(key=f"key {number % 4}"), "text")
            assert queue._backend._opened is not None
            return queue._backend._opened.store

    with ThreadPoolExecutor(8) as pool:
        stores = set(pool.map(lambda number: anyio.run(enqueue, number), range(8)))
    assert len(stores) == 1
    with psycopg.connect(server_url()) as connection:
        query = f"SELECT count(*) FROM {schema}.task"
        assert connection.execute(query).fetchone() == (4,)


async def test_a_newer_schema_is_refused(owner: psycopg.Connection[Any], schema: str) -> None:
    async with backend_at(schema):
        pass
    owner.execute(f"UPDATE {schema}.meta SET value = '99' WHERE name = 'version'")
    query = (
        f"SELECT relname, relfilenode, reltuples FROM pg_class WHERE relnamespace = "
        f"'{schema}'::regnamespace ORDER BY 1"
    )
    before = owner.execute(query).fetchall(), owner.execute(f"TABLE {schema}.meta").fetchall()
    with pytest.raises(StoreVersionError, match="99"):
        await backend_at(schema).open()
    after = owner.execute(query).fetchall(), owner.execute(f"TABLE {schema}.meta").fetchall()
    assert after == before


async def test_tables_of_somebody_else(owner: psycopg.Connection[Any], schema: str) -> None:
    owner.execute(f"CREATE SCHEMA {schema}")
    owner.execute(f"CREATE TABLE {schema}.meta (other integer)")
    with pytest.raises(StoreUnusable, match="not those of sitq"):
        await backend_at(schema).open()


async def test_tables_that_are_dropped_while_it_is_open(
    owner: psycopg.Connection[Any], schema: str
) -> None:
    async with TaskQueue(backend_at(schema)) as queue:
        await queue.enqueue(notes, "text")
        owner.execute(f"DROP SCHEMA {schema} CASCADE")
        with pytest.raises(StoreUnusable, match="gone"):
            await queue.enqueue(notes, "text")

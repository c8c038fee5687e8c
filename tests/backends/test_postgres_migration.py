"""Schemas of earlier versions are brought up to date: once, and with all that is in them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import anyio
import psycopg

from sitq import State, TaskQueue
from sitq.backends.base import Filter
from sitq.backends.postgres.queries import RUNGS

from ..former import EACH, fill, first_version
from ..postgres import backend_at, server_url

MANY = 8


async def make(schema: str) -> dict[bytes, State]:
    async with backend_at(schema) as backend:
        return await fill(backend)


async def states_in(schema: str) -> dict[bytes, State]:
    async with backend_at(schema) as backend:
        found = await backend.find(Filter(), after=0, limit=1_000)
        return {row.id: row.state for row in found}


async def purge(schema: str) -> int:
    async with TaskQueue(backend_at(schema)) as queue:
        return await queue.purge()


def test_many_migrate_a_schema_of_the_first_version(schema: str) -> None:
    with first_version():
        states = anyio.run(make, schema)
    with psycopg.connect(server_url(), autocommit=True) as stranger:
        version = f"SELECT value FROM {schema}.meta WHERE name = 'version'"
        rows = f"SELECT * FROM {schema}.task ORDER BY seq"
        before = stranger.execute(rows).fetchall()
        assert stranger.execute(version).fetchone() == ("1",)
        with ThreadPoolExecutor(MANY) as pool:
            found = list(pool.map(lambda _: anyio.run(states_in, schema), range(MANY)))
        assert found == [states] * MANY
        assert stranger.execute(version).fetchone() == (str(len(RUNGS)),)
        assert stranger.execute(rows).fetchall() == before
    assert anyio.run(purge, schema) == 3 * EACH

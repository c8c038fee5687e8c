"""Tasks in a caller's own transaction: seen after its commit, never before, without a notice."""

from __future__ import annotations

from typing import Any

import anyio
import psycopg
import pytest

from sitq import TaskQueue, Worker

from ...postgres import backend_at, server_url
from .company import notes, registry, runs

pytestmark = pytest.mark.anyio


@pytest.fixture
def listening() -> Any:
    with psycopg.connect(server_url(), autocommit=True) as connection:
        yield connection


async def test_a_worker_finds_it_after_the_commit(
    listening: psycopg.Connection[Any], schema: str
) -> None:
    runs.clear()
    async with TaskQueue(backend_at(schema)) as queue, backend_at(schema) as other:
        listening.execute(f"LISTEN {schema}_work; LISTEN {schema}_ended")
        async with Worker(other, registry=registry, poll_interval=0.05, lease=30):
            with psycopg.connect(server_url()) as connection:
                for text, ends in (("kept", connection.commit), ("gone", connection.rollback)):
                    # With a key too: its holder is looked up in the same transaction.
                    for key in (None, text):
                        function = notes.using(connection=connection, key=key)
                        await queue.enqueue(function, f"{text} {key}")
                    await anyio.sleep(0.2)
                    assert sorted(runs) == (["kept None", "kept kept"] if text == "gone" else [])
                    if text == "kept":
                        assert [*listening.notifies(timeout=0)] == []
                    ends()
                    with anyio.fail_after(5):
                        while len(runs) < 2:
                            await anyio.sleep(0.01)
            await anyio.sleep(0.2)
    assert sorted(runs) == ["kept None", "kept kept"]


async def test_a_key_that_is_taken_in_a_transaction_is_waited_for(schema: str) -> None:
    async with TaskQueue(backend_at(schema)) as queue:
        with psycopg.connect(server_url()) as connection:
            mine = await queue.enqueue(notes.using(connection=connection, key="key"), "mine")
            async with anyio.create_task_group() as group:
                ids: list[Any] = []

                async def enqueue() -> None:
                    ids.append((await queue.enqueue(notes.using(key="key"), "theirs")).id)

                group.start_soon(enqueue)
                await anyio.sleep(0.1)
                assert ids == []
                connection.rollback()
            assert ids != [mine.id]
        assert [task.id for task in await queue.find()] == ids

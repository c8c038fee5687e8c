"""The server goes on with a statement, although the line to who asked for it is cut."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import psycopg
import pytest

from sitq.backends.base import Wanted
from sitq.backends.postgres import PostgresBackend
from sitq.errors import StoreUnavailable
from sitq.model import Change, NewChild, NewGroup, Reservation, State

from ...postgres import server_url
from ..stage import RECORD
from .proxy import Proxy
from .stage import new_task

pytestmark = pytest.mark.anyio


@pytest.fixture
async def backend(proxy: Proxy, schema: str) -> AsyncIterator[PostgresBackend]:
    made = PostgresBackend(proxy.url, schema=schema, answer_limit=10, outage_limit=10)
    async with made:
        yield made


class Holder:
    """A stranger who holds something up, in a transaction."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._connection = psycopg.connect(server_url())

    def hold(self, query: str, *values: Any) -> None:
        self._connection.execute(query.replace("{}", self.schema), values)

    def hold_key(self, key: str) -> None:
        self.hold(
            "INSERT INTO {}.task (id, run_at, enqueued, priority, name, queue, key) "
            "VALUES (gen_random_uuid(), now(), now(), 0, 'echo', 'other', %s)",
            key,
        )

    async def waited_for(self, number: int) -> None:
        """Wait until so many statements wait for it."""
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
        )
        with psycopg.connect(server_url(), autocommit=True) as looker:
            with anyio.fail_after(10):
                while looker.execute(query, (f"%{self.schema}%",)).fetchone() != (number,):
                    await anyio.sleep(0.01)

    def let_go(self) -> None:
        self._connection.rollback()
        self._connection.close()


async def cut_while_held(
    holder: Holder, proxy: Proxy, start: Callable[[], Coroutine[Any, Any, Any]]
) -> Any:
    """Start it, cut the line when it is held up; let both tries go when the second waits too."""
    answers: list[Any] = []

    async def run() -> None:
        answers.append(await start())

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await holder.waited_for(1)
        proxy.cut()
        await holder.waited_for(2)
        holder.let_go()
    return answers[0]


@pytest.mark.parametrize("keys", [("k",), ("k", None, "l"), (None, "k")], ids=str)
async def test_tasks_are_stored_once(
    keys: tuple[str | None, ...], backend: PostgresBackend, proxy: Proxy, schema: str
) -> None:
    now = await backend.now()
    tasks = [new_task(now, key) for key in keys]
    holder = Holder(schema)
    holder.hold_key("k")
    assert await cut_while_held(holder, proxy, lambda: backend.insert(tasks)) == [
        task.id for task in tasks
    ]
    assert sum((await backend.counts()).values()) == len(keys)


async def test_children_are_stored_once(
    backend: PostgresBackend, proxy: Proxy, schema: str
) -> None:
    worker = await backend.hire(RECORD)
    group = await backend.open_group(NewGroup(None, owner=worker))
    now = await backend.now()
    children = [
        NewChild(new_task(now, key), name, b"digest") for name, key in (("a", "k"), ("b", None))
    ]
    holder = Holder(schema)
    holder.hold_key("k")
    ids = await cut_while_held(holder, proxy, lambda: backend.insert_children(group, children))
    assert ids == [child.task.id for child in children]
    assert sum((await backend.counts()).values()) == 2


async def test_what_a_reserve_takes_when_nobody_waits_is_handed_out(
    backend: PostgresBackend, proxy: Proxy, schema: str
) -> None:
    worker = await backend.hire(RECORD)
    now = await backend.now()
    await backend.insert([new_task(now) for _ in range(3)])
    holder = Holder(schema)
    holder.hold("SELECT 1 FROM {}.worker WHERE id = %s FOR UPDATE", worker)
    got: list[Reservation] = []
    async with anyio.create_task_group() as group:
        group.start_soon(backend.reserve, worker, Wanted(3, None), got.extend)
        await holder.waited_for(1)
        proxy.cut()  # the second try passes over what the first has locked, and is answered
    assert got == []
    holder.let_go()
    with anyio.fail_after(10):
        while len(got) < 3:
            await backend.reserve(worker, Wanted(2, None), got.extend)
    assert len({task.seq for task in got}) == 3
    await backend.reserve(worker, Wanted(5, None), got.extend)
    assert len(got) == 3


async def test_reserves_of_one_worker_at_the_same_time(backend: PostgresBackend) -> None:
    worker = await backend.hire(RECORD)
    now = await backend.now()
    await backend.insert([new_task(now) for _ in range(40)])
    got: list[Reservation] = []
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(backend.reserve, worker, Wanted(5, None), got.extend)
            await anyio.lowlevel.checkpoint()
    assert len({task.seq for task in got}) == len(got) == 40


async def test_no_more_is_handed_out_than_is_wanted(
    backend: PostgresBackend, proxy: Proxy, schema: str
) -> None:
    """Of what was taken by a wish that failed."""
    worker = await backend.hire(RECORD)
    now = await backend.now()
    await backend.insert([new_task(now) for _ in range(12)])
    got: list[Reservation] = []
    assert backend._opened is not None
    backend._opened.driver.desk._outage_limit = 0.0
    proxy.lose(b"state = 1, worker")
    with pytest.raises(StoreUnavailable, match="may have been done"):
        await backend.reserve(worker, Wanted(5, None), got.extend)
    assert got == []
    for number in (2, 4, 6, 8, 10, 12, 12):
        await backend.reserve(worker, Wanted(2, None), got.extend)
        assert len({task.seq for task in got}) == len(got) == number


async def test_a_settle_that_failed_but_was_done(backend: PostgresBackend, proxy: Proxy) -> None:
    worker = await backend.hire(RECORD)
    now = await backend.now()
    await backend.insert([new_task(now) for _ in range(3)])
    got: list[Reservation] = []
    await backend.reserve(worker, Wanted(3, None), got.extend)
    changes = [
        Change(task.seq, task.fence, State.SUCCEEDED, task.run_at, 0, 0, 0, b"value")
        for task in got
    ]
    assert backend._opened is not None
    backend._opened.driver.desk._outage_limit = 0.0
    proxy.lose(b"UPDATE")
    with pytest.raises(StoreUnavailable, match="may have been done"):
        await backend.settle(worker, changes[:2])
    assert await backend.settle(worker, changes) == {task.seq for task in got}
    assert await backend.settle(worker, changes) == set()


async def test_a_settle_of_which_one_part_met_a_deadlock(
    backend: PostgresBackend, proxy: Proxy, schema: str
) -> None:
    """The part that was committed before is told all the same."""
    worker = await backend.hire(RECORD)
    now = await backend.now()
    group = await backend.open_group(NewGroup(None, owner=worker))
    await backend.insert([new_task(now)])
    await backend.insert_children(group, [NewChild(new_task(now), "a", b"digest")])
    got: list[Reservation] = []
    await backend.reserve(worker, Wanted(2, None), got.extend)
    changes = [
        Change(task.seq, task.fence, State.SUCCEEDED, task.run_at, 0, 0, 0, b"value")
        for task in got
    ]
    child = got[1].seq
    with psycopg.connect(server_url()) as stranger:
        stranger.execute(f"SELECT 1 FROM {schema}.task WHERE seq = %s FOR UPDATE", (child,))
        answers: list[Any] = []
        holder = Holder(schema)

        async def settle() -> None:
            answers.append(await backend.settle(worker, changes))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(settle)
            await holder.waited_for(1)
            # It holds the group, and wants the child; the deadlock is found by who waits longer.
            stranger.execute("SET deadlock_timeout = '10s'")
            lock = f"SELECT 1 FROM {schema}.task_group WHERE id = %s FOR UPDATE"
            await anyio.to_thread.run_sync(stranger.execute, lock, (group.id,))
            stranger.rollback()
            holder.let_go()
    assert answers == [{task.seq for task in got}]

"""One row that a stranger wrote, and what the rows and callers beside it must not feel of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from sitq import MsgpackSerializer, Registry, Retry, SQLiteBackend, State, TaskQueue, Worker
from sitq.backends.base import Wanted
from sitq.errors import NotSerializable, StoreFull, TaskFailed, WrongState

pytestmark = pytest.mark.anyio
registry = Registry()
gates: list[tuple[anyio.Event, anyio.Event]] = []


@registry.task(name="echo")
async def echo(value: Any) -> Any:
    return value


@registry.task(name="gated", retry=Retry(attempts=2, base=0))
async def gated() -> None:
    started, end = gates[0]
    started.set()
    await end.wait()
    raise ValueError("after the damage")


@registry.task(name="nothing_knows_it")
async def nothing_knows_it() -> None:
    """Its name is changed in the store."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def backend(path: Path) -> SQLiteBackend:
    return SQLiteBackend(path, synchronous="NORMAL")


def write(path: Path, sql: str, *values: Any) -> None:
    with closing(sqlite3.connect(path)) as stranger:
        stranger.execute("PRAGMA ignore_check_constraints = ON")
        stranger.execute(sql, values)
        stranger.commit()


def worker(backend: SQLiteBackend, **options: Any) -> Worker:
    return Worker(backend, registry=registry, **options)


async def test_a_key_that_a_damaged_task_holds(path: Path, backend: SQLiteBackend) -> None:
    keyed = echo.using(key="k")
    async with TaskQueue(backend) as queue:
        await queue.enqueue(keyed, 1)
        write(path, "UPDATE sitq_task SET id = 'x'")
        handle = await queue.enqueue(keyed, 2)
        assert (await queue.enqueue(keyed, 3)) == handle
        async with worker(backend):
            assert await handle.result(30) == 2
        states = [task.state for task in await queue.find()]
        assert states == [State.FAILED, State.SUCCEEDED]


@pytest.mark.parametrize("number", [2**62, 2**63 - 1, b"x", "x", 1.5])
async def test_a_number_of_an_end_keeps_nobody_waiting(
    path: Path, backend: SQLiteBackend, number: Any
) -> None:
    async with TaskQueue(backend) as queue:
        handles = [await queue.enqueue(echo, number) for number in range(3)]
        ended: list[Any] = []
        async with anyio.create_task_group() as group:

            async def wait(handle: Any) -> None:
                ended.append(await handle.result(30))

            for handle in handles[1:]:
                group.start_soon(wait, handle)
            await anyio.wait_all_tasks_blocked()
            write(
                path,
                "UPDATE sitq_task SET state = 2, ended = 5, change = ?, value = x'c0' "
                "WHERE seq = 1",
                number,
            )
            async with worker(backend, max_concurrency=1):
                for handle in handles[1:]:
                    await handle.result(30)
        assert sorted(ended) == [1, 2]


async def test_an_end_in_the_future_keeps_nothing_from_being_purged(
    path: Path, backend: SQLiteBackend
) -> None:
    async with TaskQueue(backend) as queue, worker(backend, retention=None):
        for number in range(5):
            await (await queue.enqueue(echo, number)).result(30)
        write(path, "UPDATE sitq_task SET ended = 4e9 WHERE seq = 1")
        write(path, "UPDATE sitq_task SET ended = 9e999 WHERE seq = 2")
        assert await queue.purge() == 4
        assert [task.seq for task in await queue.find()] == [1]


async def test_a_row_that_is_damaged_while_it_runs(path: Path, backend: SQLiteBackend) -> None:
    gates[:] = [(anyio.Event(), anyio.Event())]
    async with TaskQueue(backend) as queue, worker(backend):
        bad = await queue.enqueue(gated)
        await gates[0][0].wait()
        write(path, "UPDATE sitq_task SET cancel = 2")
        gates[0][1].set()
        assert await (await queue.enqueue(echo, 1)).result(30) == 1
        with pytest.raises(TaskFailed, match="TaskDamaged"):
            await bad.result(30)


async def test_a_damaged_task_that_was_ended_is_not_retried(
    path: Path, backend: SQLiteBackend
) -> None:
    async with TaskQueue(backend) as queue:
        handle = await queue.enqueue(echo, 1)
        await handle.cancel()
        write(path, "UPDATE sitq_task SET id = CAST(id AS BLOB), cancel = 1, worker = 5")
        # Pending, it would break a rule of the schema: a worker, but not running.
        with pytest.raises(WrongState, match="damaged"):
            await queue.retry(handle)
        assert await queue.purge() == 1


async def test_only_what_a_serializer_reads_is_loaded(path: Path, backend: SQLiteBackend) -> None:
    large = MsgpackSerializer(max_bytes=8 << 20)
    text = "x" * (4 << 20)
    async with (
        TaskQueue(backend, serializer=large) as queue,
        TaskQueue(backend) as small,
    ):
        handle = await queue.enqueue(echo, text)
        other = await queue.enqueue(echo, text)
        async with worker(backend, serializer=large, max_concurrency=1):
            assert await handle.result(30) == text
            with pytest.raises(NotSerializable, match="more than the 1,048,576 allowed"):
                await small.get_result(handle)
            await other.result(30)
        third = await queue.enqueue(echo, text)
        async with worker(backend):
            with pytest.raises(TaskFailed, match="more than the 1,048,576 allowed"):
                await third.result(30)


async def test_a_thousand_unknown_names(path: Path, backend: SQLiteBackend) -> None:
    asked: list[int] = []
    reserve = backend.reserve

    async def counted(id: int, wanted: Wanted, deliver: Any) -> float | None:
        asked.append(len(wanted.skip))
        return await reserve(id, wanted, deliver)

    backend.reserve = counted  # type: ignore[method-assign]
    async with TaskQueue(backend) as queue:
        await queue.enqueue_many([nothing_knows_it.call() for _ in range(1_100)])
        write(path, "UPDATE sitq_task SET name = 'pkg.f' || seq")
        handle = await queue.enqueue(echo, 1)
        async with worker(backend, max_concurrency=200):
            assert await handle.result(60) == 1
    assert max(asked) == 1_000


async def test_workers_are_listed_whatever_their_rows_hold(
    path: Path, backend: SQLiteBackend
) -> None:
    async with TaskQueue(backend) as queue:
        for values in ("'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x'", "x'ff', -1, 5, -5, -1, -1, -1, 1"):
            write(
                path,
                "INSERT INTO sitq_worker (host, pid, queues, concurrency, lease, started, boot, "
                f"beat) VALUES ({values})",
            )
        assert [one.host for one in await queue.workers()] == ["x", "?"]
        assert len(await queue.find()) == 0


async def test_the_last_number_of_all(path: Path, backend: SQLiteBackend) -> None:
    async with TaskQueue(backend) as queue, worker(backend):
        before = await queue.enqueue(echo, 1)
        await before.result(30)
        write(path, "UPDATE sitq_task SET seq = 9223372036854775807")
        write(path, "INSERT INTO sqlite_sequence VALUES ('sitq_task', 9223372036854775807)")
        for call in (echo, echo.using(key="k")):
            with pytest.raises(StoreFull, match="sqlite_sequence"):
                await queue.enqueue(call, 2)
        assert await before.result(30) == 1

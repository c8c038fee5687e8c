"""Tasks that are stored in a transaction of the caller's own."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import pytest

from sitq import Registry, SQLiteBackend, State, TaskQueue, Worker
from sitq.errors import (
    InvalidOption,
    NotOpen,
    NotSerializable,
    SitqError,
    StoreFull,
    StoreReplaced,
    StoreUnavailable,
    TaskNotFound,
    UsageError,
)
from sitq.model import NewTask

pytestmark = pytest.mark.anyio

Connection = sqlite3.Connection | aiosqlite.Connection
only_sqlite3 = pytest.mark.parametrize("way", ["asyncio sqlite3", "trio sqlite3"])
only_aiosqlite = pytest.mark.parametrize("way", ["asyncio aiosqlite"])
BIG = "x" * 5_000

registry = Registry()
noted: list[Any] = []


@registry.task(name="note")
async def note(value: Any) -> Any:
    noted.append(value)
    return value


class Mine:
    """A connection of the caller's own, of either kind, and what is done with it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.note = note.using(connection=connection)

    async def run(self, sql: str, *values: object) -> list[Any]:
        if isinstance(self.connection, sqlite3.Connection):
            return self.connection.execute(sql, values).fetchall()
        return [*await self.connection.execute_fetchall(sql, values)]

    async def begin(self) -> None:
        await self.run("BEGIN IMMEDIATE")
        await self.run("INSERT INTO orders VALUES ('mine')")

    async def count(self, table: str) -> int:
        return int((await self.run(f"SELECT count(*) FROM {table}"))[0][0])

    async def commit(self) -> None:
        await self.run("COMMIT")

    async def rollback(self) -> None:
        await self.run("ROLLBACK")

    async def close(self) -> None:
        closed = self.connection.close()
        if closed is not None:
            await closed


@pytest.fixture(params=["asyncio sqlite3", "asyncio aiosqlite", "trio sqlite3"])
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def anyio_backend(way: str) -> str:
    return way.split()[0]


@pytest.fixture
async def queue(path: Path) -> AsyncIterator[TaskQueue]:
    noted.clear()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders (item TEXT)")
    async with TaskQueue(SQLiteBackend(path)) as queue:
        yield queue


Connect = Callable[..., Awaitable[Mine]]


@pytest.fixture
async def connect(way: str, path: Path, queue: TaskQueue) -> AsyncIterator[Connect]:
    """Makes connections, which are closed at the end."""
    made: list[Mine] = []

    async def connect(to: Path | str = path, **options: Any) -> Mine:
        if way.endswith("aiosqlite"):
            made.append(Mine(await aiosqlite.connect(to, **options)))
        else:
            made.append(Mine(sqlite3.connect(to, **options)))
        return made[-1]

    yield connect
    for mine in made:
        await mine.close()


@pytest.fixture
async def mine(connect: Connect) -> Mine:
    return await connect()


async def total(queue: TaskQueue) -> int:
    return sum((await queue.counts()).values())


async def refusal(queue: TaskQueue, mine: Mine, error: type[SitqError], text: str) -> None:
    """An enqueue that is to fail, soon."""
    with pytest.raises(error, match=text) as caught, anyio.fail_after(5):
        await queue.enqueue(mine.note, "refused")
    assert type(caught.value) is error


# Together with the caller's rows, or not at all.


async def test_a_commit_stores_both(queue: TaskQueue, mine: Mine) -> None:
    await mine.begin()
    handle = await queue.enqueue(mine.note, 1)
    assert await handle.get() is None
    assert await total(queue) == 0
    await mine.commit()
    assert await mine.count("orders") == 1
    assert [task.id for task in await queue.find()] == [handle.id]
    async with Worker(queue._backend, registry=registry):
        assert await handle.result(5) == 1


async def test_a_rollback_stores_neither(queue: TaskQueue, mine: Mine) -> None:
    await mine.begin()
    handle = await queue.enqueue(mine.note, BIG)
    assert await mine.count("sitq_big") == 1
    await mine.rollback()
    assert [await mine.count(table) for table in ("orders", "sitq_task", "sitq_big")] == [0, 0, 0]
    with pytest.raises(TaskNotFound):
        await handle.result(5)


@only_sqlite3
async def test_a_block_of_the_connection_takes_it_along(queue: TaskQueue, mine: Mine) -> None:
    assert isinstance(mine.connection, sqlite3.Connection)
    with pytest.raises(ZeroDivisionError), mine.connection:
        mine.connection.execute("INSERT INTO orders VALUES ('begins a transaction')")
        await queue.enqueue(mine.note, 1)
        raise ZeroDivisionError
    assert await total(queue) == 0
    with mine.connection:
        mine.connection.execute("INSERT INTO orders VALUES ('begins a transaction')")
        await queue.enqueue(mine.note, 1)
    assert await total(queue) == await mine.count("orders") == 1


async def test_many_calls(queue: TaskQueue, mine: Mine) -> None:
    values = [BIG if number % 500 == 7 else number for number in range(2_500)]
    await mine.begin()
    handles = await queue.enqueue_many([mine.note.call(value) for value in values])
    assert await queue.enqueue_many([]) == []
    await mine.commit()
    assert [task.id for task in await queue.find(limit=5_000)] == [one.id for one in handles]
    async with Worker(queue._backend, registry=registry):
        with anyio.fail_after(20):
            assert await handles[7].result() == await handles[2_007].result() == BIG
            assert await handles[-1].result() == 2_499


async def test_options_go_with_it(queue: TaskQueue, mine: Mine) -> None:
    await mine.begin()
    handle = await queue.enqueue(mine.note.using(queue="io", priority=7, delay=60, key="k"), 1)
    await mine.commit()
    task = await handle.get()
    assert task is not None
    assert (task.queue, task.priority, task.key) == ("io", 7, "k")
    assert task.run_at > task.enqueued_at


async def test_a_worker_of_this_process_wakes_at_the_commit(queue: TaskQueue, mine: Mine) -> None:
    async with Worker(queue._backend, registry=registry, poll_interval=30):
        with anyio.fail_after(10):
            await (await queue.enqueue(note, "before")).result()
            for number in range(5):
                await mine.begin()
                handle = await queue.enqueue(mine.note, number)
                await anyio.sleep(0.03)
                assert noted == ["before", *range(number)]
                await mine.commit()
                assert await handle.result() == number


async def test_a_worker_runs_nothing_that_was_rolled_back(queue: TaskQueue, mine: Mine) -> None:
    async with Worker(queue._backend, registry=registry, poll_interval=30):
        with anyio.fail_after(10):
            for number in range(5):
                await mine.begin()
                await queue.enqueue(mine.note, "gone")
                await mine.rollback()
                await (await queue.enqueue(note, number)).result()
    assert noted == [*range(5)]


# A failure takes nothing along that is not sitq's.


def wrong(tasks: Sequence[NewTask], how: str) -> list[NewTask]:
    last = {
        "the same id": {"id": tasks[0].id},
        "a short id": {"id": b"short"},
        "no name": {"name": ""},
        "a high priority": {"priority": 101},
    }
    return [*tasks[:-1], tasks[-1]._replace(**last[how])]


@pytest.mark.parametrize("how", ["the same id", "a short id", "no name", "a high priority"])
async def test_all_or_none(
    queue: TaskQueue, mine: Mine, new: Callable[..., NewTask], how: str
) -> None:
    await mine.begin()
    before = await queue.enqueue(mine.note, "before")
    tasks = wrong([new(arguments=bytes(5_000)), new(key="k"), new()], how)
    with pytest.raises(sqlite3.IntegrityError):
        await queue._backend.insert_within(mine.connection, tasks)
    assert await mine.count("sitq_task") == 1
    await mine.run("INSERT INTO orders VALUES ('after')")
    after = await queue.enqueue(mine.note, "after")
    await mine.commit()
    assert [task.id for task in await queue.find()] == [before.id, after.id]
    assert [await mine.count(table) for table in ("orders", "sitq_big")] == [2, 0]


async def test_what_cannot_be_packed(queue: TaskQueue, mine: Mine) -> None:
    await mine.begin()
    with pytest.raises(NotSerializable):
        await queue.enqueue_many([mine.note.call(1), mine.note.call(object())])
    await mine.commit()
    assert (await mine.count("orders"), await total(queue)) == (1, 0)


async def test_no_room(queue: TaskQueue, mine: Mine) -> None:
    await mine.begin()
    await mine.run("PRAGMA max_page_count = 1")
    with pytest.raises(StoreFull):
        await queue.enqueue_many([mine.note.call(1), mine.note.call("x" * 500_000)])
    with suppress(sqlite3.OperationalError):  # SQLite may have ended the transaction
        await mine.commit()
    await mine.run("PRAGMA max_page_count = 100000")
    assert await total(queue) == 0
    await mine.begin()
    await queue.enqueue(mine.note, BIG)
    await mine.commit()
    assert await total(queue) == 1


async def test_the_lock_of_another(
    queue: TaskQueue, connect: Connect, path: Path, new: Callable[..., NewTask]
) -> None:
    mine = await connect(timeout=0)
    await mine.run("BEGIN")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await refusal(queue, mine, StoreUnavailable, "locked.* BEGIN IMMEDIATE")
    handle = await queue.enqueue(mine.note, 1)
    await mine.commit()
    assert [task.id for task in await queue.find()] == [handle.id]
    await queue._backend.insert([new()])
    assert not queue._backend._database._spoiled  # type: ignore[attr-defined]


async def test_another_wrote_since_the_transaction_read(
    queue: TaskQueue, mine: Mine, new: Callable[..., NewTask]
) -> None:
    await mine.run("BEGIN")
    assert await mine.count("orders") == 0
    await queue.enqueue(note, "other")
    await refusal(queue, mine, StoreUnavailable, "BEGIN IMMEDIATE")
    await mine.rollback()


async def test_the_lock_is_waited_for_as_the_connection_does(
    queue: TaskQueue, connect: Connect, path: Path
) -> None:
    mine = await connect(timeout=10)
    await mine.run("BEGIN")
    with closing(sqlite3.connect(path, check_same_thread=False)) as other:
        other.execute("INSERT INTO orders VALUES ('other')")
        commit = threading.Timer(0.2, other.commit)
        commit.start()
        await queue.enqueue(mine.note, 1)  # nothing was read before: that would be out of date now
        commit.join()
    assert await mine.count("orders") == 1
    await mine.commit()
    assert await total(queue) == 1


@pytest.mark.parametrize("name", ["sitq", "own"])
async def test_savepoints_of_the_caller(queue: TaskQueue, mine: Mine, name: str) -> None:
    await mine.begin()
    kept = await queue.enqueue(mine.note, "kept")
    await mine.run(f"SAVEPOINT {name}")
    await queue.enqueue(mine.note, "gone")
    await mine.run(f"ROLLBACK TO {name}")
    await mine.commit()
    assert [task.id for task in await queue.find()] == [kept.id]


# Keys.


async def test_keys(queue: TaskQueue, mine: Mine) -> None:
    held = await queue.enqueue(note.using(key="held"), 1)
    await mine.begin()
    assert await queue.enqueue(mine.note.using(key="held"), BIG) == held
    mine_alone = await queue.enqueue(mine.note.using(key="own"), BIG)
    twice = [mine.note.using(key="own").call(n) for n in range(2)]
    assert await queue.enqueue_many(twice) == [mine_alone, mine_alone]
    await mine.rollback()
    assert [task.id for task in await queue.find()] == [held.id]
    assert await mine.count("sitq_big") == 0
    again = await queue.enqueue(note.using(key="own"), 1)
    assert again != mine_alone


async def test_a_key_whose_holder_ended_in_the_transaction_is_free(
    queue: TaskQueue, mine: Mine
) -> None:
    held = await queue.enqueue(note.using(key="k"), 1)
    await mine.begin()
    await mine.run("UPDATE sitq_task SET state = 4, change = 1, ended = 1.0")
    handle = await queue.enqueue(mine.note.using(key="k"), 2)
    assert handle != held
    await mine.rollback()
    assert [task.id for task in await queue.find()] == [held.id]


@pytest.mark.parametrize("text", [bytes, str, lambda raw: raw.decode().upper()])
async def test_a_damaged_holder_of_a_key(
    queue: TaskQueue, connect: Connect, new: Callable[..., NewTask], text: Any
) -> None:
    mine = await connect()
    await queue._backend.insert([new(key="k")])
    await mine.begin()
    await mine.run("UPDATE sitq_task SET id = 'sixteen letters.'")
    mine.connection.text_factory = text
    handle = await queue.enqueue(mine.note.using(key="k"), 1)
    await mine.commit()
    assert mine.connection.text_factory is text
    damaged, task = await queue.find()
    assert (damaged.state, damaged.name, damaged.key) == (State.FAILED, "tests.work", "k")
    assert task.id == handle.id


# Connections.


@pytest.mark.parametrize("isolation", [None, "", "IMMEDIATE", "EXCLUSIVE"])
async def test_isolation_levels(queue: TaskQueue, connect: Connect, isolation: str | None) -> None:
    mine = await connect(isolation_level=isolation)
    await mine.begin()
    await queue.enqueue(mine.note.using(key="k"), 1)
    await queue.enqueue_many([mine.note.call(n) for n in range(20)])
    assert await total(queue) == 0
    await mine.rollback()
    assert await total(queue) == await mine.count("orders") == 0


async def test_a_transaction_that_the_library_began(queue: TaskQueue, mine: Mine) -> None:
    await mine.run("INSERT INTO orders VALUES ('begins it')")
    await queue.enqueue(mine.note, 1)
    assert await total(queue) == 0
    await mine.rollback()
    assert await total(queue) == await mine.count("orders") == 0


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no autocommit before 3.12")
@pytest.mark.parametrize("ends", ["COMMIT", "ROLLBACK"])
async def test_autocommit(queue: TaskQueue, connect: Connect, ends: str) -> None:
    mine = await connect(autocommit=True)
    await refusal(queue, mine, UsageError, "no transaction is open")
    await mine.begin()
    await queue.enqueue(mine.note, 1)
    assert await total(queue) == 0
    await mine.run(ends)
    implicit = await connect(autocommit=False)
    await queue.enqueue(implicit.note, 1)
    await implicit.run(ends)
    assert await total(queue) == (2 if ends == "COMMIT" else 0)


async def test_factories_do_not_matter_and_stay(queue: TaskQueue, connect: Connect) -> None:
    def row(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> Any:
        raise AssertionError("not for rows of sitq")

    held = await queue.enqueue(note.using(key="held"), 1)
    for factory in (sqlite3.Row, row, None):
        mine = await connect()
        await mine.begin()
        mine.connection.row_factory = factory
        mine.connection.text_factory = bytes
        assert await queue.enqueue(mine.note.using(key="held"), 2) == held
        await queue.enqueue(mine.note.using(key="free"), BIG)
        assert mine.connection.row_factory is factory
        assert mine.connection.text_factory is bytes
        await mine.rollback()
        await refusal(queue, mine, UsageError, "no transaction is open")
        assert mine.connection.row_factory is factory
        assert mine.connection.text_factory is bytes


class Fancy(sqlite3.Connection):
    """A connection class of somebody's own."""


async def test_a_subclass(queue: TaskQueue, connect: Connect) -> None:
    mine = await connect(factory=Fancy)
    await mine.begin()
    await queue.enqueue(mine.note, 1)
    await mine.commit()
    assert await total(queue) == 1


async def test_a_way_through_links(queue: TaskQueue, connect: Connect, path: Path) -> None:
    (path.parent / "folder").symlink_to(path.parent)
    (path.parent / "link.db").symlink_to(path)
    uri = f"{path.as_uri()}?mode=rw"
    for to in (path.parent / "folder" / path.name, path.parent / "link.db", uri):
        mine = await connect(to, uri=to is uri)
        await mine.begin()
        await queue.enqueue(mine.note, 1)
        await mine.commit()
    assert await total(queue) == 3


async def test_a_path_that_is_no_text(tmp_path: Path, connect: Connect) -> None:
    path = tmp_path / os.fsdecode(b"\xff.db")
    async with TaskQueue(SQLiteBackend(path)) as queue:
        mine = await connect(path)
        await mine.run("BEGIN")
        await queue.enqueue(mine.note, 1)
        await mine.commit()
        assert await total(queue) == 1


async def test_other_databases(queue: TaskQueue, connect: Connect, path: Path) -> None:
    os.link(path, path.parent / "hard.db")  # SQLite would keep a second log beside it
    for to in (path.with_name("other.db"), ":memory:", "", path.with_name("hard.db")):
        mine = await connect(to)
        await mine.run("BEGIN")
        await refusal(queue, mine, InvalidOption, "another database")
        await mine.run("ROLLBACK")
    path.with_name("hard.db").unlink()
    mine = await connect(":memory:")
    await mine.run("ATTACH ? AS tasks", str(path))
    await mine.run("BEGIN")
    await refusal(queue, mine, InvalidOption, "another database.*in memory")
    assert await total(queue) == 0


async def test_a_backend_in_memory(connect: Connect) -> None:
    async with TaskQueue(SQLiteBackend(":memory:")) as queue:
        mine = await connect(":memory:")
        await mine.run("BEGIN")
        await refusal(queue, mine, InvalidOption, "in memory; use a file")


async def test_no_transaction(queue: TaskQueue, mine: Mine) -> None:
    await refusal(queue, mine, UsageError, r'connection\.execute\("BEGIN IMMEDIATE"\)')
    assert await mine.count("sitq_task") == 0


async def test_a_closed_connection(queue: TaskQueue, mine: Mine) -> None:
    await mine.begin()
    await mine.close()
    await refusal(queue, mine, UsageError, "closed")
    assert await total(queue) == 0


@only_aiosqlite
async def test_a_connection_that_was_never_opened(queue: TaskQueue, path: Path) -> None:
    await refusal(queue, Mine(aiosqlite.connect(path)), UsageError, "never opened")


@only_sqlite3
async def test_the_connection_of_another_thread(queue: TaskQueue, path: Path) -> None:
    with ThreadPoolExecutor(1) as elsewhere:
        mine = Mine(elsewhere.submit(sqlite3.connect, path).result())
        await refusal(queue, mine, UsageError, "thread")
        elsewhere.submit(mine.connection.close).result()


@only_sqlite3
async def test_a_connection_for_all_threads(queue: TaskQueue, path: Path) -> None:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, check_same_thread=False)

    with closing(await anyio.to_thread.run_sync(connect)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        await queue.enqueue(note.using(connection=connection), 1)
        connection.commit()
    assert await total(queue) == 1


@pytest.mark.parametrize("way", ["trio aiosqlite"])
async def test_aiosqlite_does_not_run_on_trio(path: Path) -> None:
    async with TaskQueue(SQLiteBackend(path)) as queue:
        await refusal(queue, Mine(aiosqlite.connect(path)), UsageError, "asyncio")


async def test_connections_of_other_kinds(queue: TaskQueue, mine: Mine) -> None:
    class Other:
        def execute(self) -> None: ...

        def cursor(self) -> None: ...

    for bad in (Other(), sqlite3.Connection):
        with pytest.raises(InvalidOption, match="sqlite3 or aiosqlite"):
            await queue.enqueue(note.using(connection=bad), 1)
    assert await total(queue) == 0


async def test_a_file_that_was_replaced(queue: TaskQueue, mine: Mine, path: Path) -> None:
    await mine.begin()
    os.rename(path, path.with_name("moved"))
    await refusal(queue, mine, StoreReplaced, "deleted or replaced")
    await mine.rollback()


# When the queue is not open.


async def test_a_queue_that_is_not_open_does_not_wait_for_the_lock(
    path: Path, connect: Connect
) -> None:
    backend = SQLiteBackend(path)
    queue, mine = TaskQueue(backend), await connect()
    await mine.begin()
    await refusal(queue, mine, NotOpen, "before a transaction of your own begins")
    await mine.rollback()
    assert await total(queue) == 0  # opens it
    await mine.begin()
    await queue.enqueue(mine.note, 1)
    await mine.commit()
    await backend.close()
    await mine.begin()
    await refusal(queue, mine, NotOpen, "was closed")
    await mine.rollback()
    async with queue:
        assert await total(queue) == 1


# Calls.


async def test_calls_of_several_connections(queue: TaskQueue, connect: Connect) -> None:
    mine, other = await connect(), await connect()
    await mine.begin()
    plain, first, second = (function.call(1) for function in (note, mine.note, other.note))
    for calls in ([first, second], [first, plain], [plain, first], [first, first, second]):
        with pytest.raises(InvalidOption, match="the same, or none"):
            await queue.enqueue_many(calls)
    await queue.enqueue_many([first, mine.note.using(priority=3).call(2)])
    await mine.commit()
    await queue.enqueue_many([plain, mine.note.using(connection=None).call(1)])
    assert await total(queue) == 4


async def test_groups_and_maps_refuse_it(queue: TaskQueue, mine: Mine) -> None:
    async with queue.task_group() as tg:
        for enqueue in (
            lambda: tg.enqueue(mine.note, 1),
            lambda: tg.enqueue_many([mine.note.call(1)]),
            lambda: tg.enqueue_many([note.call(1), mine.note.call(1)]),
        ):
            with pytest.raises(InvalidOption, match=r"no connection|or none"):
                await enqueue()
    with pytest.raises(InvalidOption, match="connection"):
        queue.map(mine.note, [1])
    assert await total(queue) == 0


# Cancellation.


async def test_a_cancelled_caller_stores_all_or_nothing(queue: TaskQueue, mine: Mine) -> None:
    await mine.begin()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await queue.enqueue_many([mine.note.call(n) for n in range(3)])
    assert scope.cancelled_caught
    in_transaction = await mine.count("sitq_task")
    assert in_transaction in (0, 3)
    await mine.commit()
    assert await total(queue) == in_transaction


@only_aiosqlite
@pytest.mark.parametrize("ends", ["COMMIT", "ROLLBACK"])
async def test_a_caller_that_is_cancelled_while_the_connection_is_busy(
    queue: TaskQueue, mine: Mine, ends: str
) -> None:
    assert isinstance(mine.connection, aiosqlite.Connection)
    busy, go_on = threading.Event(), threading.Event()

    def occupy() -> None:
        busy.set()
        assert go_on.wait(10)

    await mine.begin()
    occupied = asyncio.ensure_future(mine.connection._execute(occupy))
    assert await anyio.to_thread.run_sync(busy.wait, 10)
    calls = [mine.note.call(BIG) for n in range(3)]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.enqueue_many(calls), 0.05)
    with anyio.move_on_after(0.05) as scope:
        await queue.enqueue_many(calls)
    assert scope.cancelled_caught
    go_on.set()
    await occupied
    await mine.run(ends)  # behind both
    assert await total(queue) == (6 if ends == "COMMIT" else 0)
    assert await mine.count("orders") == (1 if ends == "COMMIT" else 0)

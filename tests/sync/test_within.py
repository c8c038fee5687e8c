"""Tasks that plain code stores in a transaction of its own, on its own thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import psycopg
import pytest

from sitq import State, SyncTaskQueue
from sitq.errors import InvalidOption, NotOpen, StoreVersionError, UsageError

from ..postgres import server_url
from . import functions as f


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    """One that only this thread may use, as sqlite3 has it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE orders (item TEXT)")
        yield connection


@pytest.fixture
def shop(file_url: str, loop: str) -> Iterator[SyncTaskQueue]:
    """A queue that is not open, on a file that was."""
    with SyncTaskQueue(file_url, loop=loop) as queue:  # type: ignore[arg-type]
        queue.counts()
    queue = SyncTaskQueue(file_url, loop=loop)  # type: ignore[arg-type]
    yield queue
    queue.close()


def is_open(queue: SyncTaskQueue) -> bool:
    return queue._backend._opened is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE"])
@pytest.mark.parametrize("opened", [True, False])
def test_a_commit_stores_both(
    connection: sqlite3.Connection, shop: SyncTaskQueue, begin: str, opened: bool
) -> None:
    if opened:
        shop.counts()
    connection.execute(begin)
    connection.execute("INSERT INTO orders VALUES ('a lamp')")
    ours = f.echo.using(connection=connection)
    handle = shop.enqueue(ours, 1)
    more = shop.enqueue_many([ours.using(key="k").call(n) for n in (2, 3)])
    assert more[0] == more[1] != handle
    assert is_open(shop) is opened  # to open it could wait for this transaction
    assert shop.find() == []
    connection.execute("COMMIT")
    assert [task.id for task in shop.find()] == [handle.id, more[0].id]


@pytest.mark.parametrize("opened", [True, False])
def test_a_rollback_drops_both(
    connection: sqlite3.Connection, shop: SyncTaskQueue, opened: bool
) -> None:
    if opened:
        shop.counts()
    connection.execute("BEGIN IMMEDIATE")
    handle = shop.enqueue(f.echo.using(connection=connection), 1)
    connection.execute("ROLLBACK")
    assert handle.get() is None
    assert shop.counts()[State.PENDING] == 0


def test_a_file_without_tables_is_not_opened_meanwhile(
    connection: sqlite3.Connection, file_url: str
) -> None:
    queue = SyncTaskQueue(file_url)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO orders VALUES ('a lamp')")
    with pytest.raises(NotOpen, match="open the queue once before"):
        queue.enqueue(f.echo.using(connection=connection), 1)
    connection.execute("COMMIT")
    assert connection.execute("SELECT count(*) FROM orders").fetchone() == (1,)
    queue.counts()
    connection.execute("BEGIN IMMEDIATE")
    queue.enqueue(f.echo.using(connection=connection), 1)
    connection.execute("COMMIT")
    queue.close()


def test_tables_of_another_version(connection: sqlite3.Connection, shop: SyncTaskQueue) -> None:
    move = "UPDATE sitq_meta SET value = value + ? WHERE name = 'version'"
    for step, error in ((1, StoreVersionError), (-2, NotOpen)):
        connection.execute(move, (step,))
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(error):
            shop.enqueue(f.echo.using(connection=connection), 1)
        connection.execute("ROLLBACK")


def test_what_is_refused(
    connection: sqlite3.Connection, shop: SyncTaskQueue, tmp_path: Path
) -> None:
    ours = f.echo.using(connection=connection)
    with pytest.raises(UsageError, match="no transaction is open"):
        shop.enqueue(ours, 1)
    connection.execute("BEGIN")
    with pytest.raises(InvalidOption, match="one connection"):
        shop.enqueue_many([ours.call(1), f.echo.call(2)])
    with pytest.raises(InvalidOption, match="child"):
        shop.enqueue(ours.using(child="c"), 1)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("BEGIN")
        with pytest.raises(InvalidOption, match="another database"):
            shop.enqueue(f.echo.using(connection=other), 1)
    for wrong in (psycopg.connect(server_url()), aiosqlite.connect(tmp_path / "tasks.db")):
        with pytest.raises(InvalidOption):
            shop.enqueue(f.echo.using(connection=wrong), 1)
        if isinstance(wrong, psycopg.Connection):
            wrong.close()
    connection.execute("ROLLBACK")
    with SyncTaskQueue("sqlite://") as memory, pytest.raises(InvalidOption, match="in memory"):
        memory.enqueue(ours, 1)
    shop.close()
    connection.execute("BEGIN")
    with pytest.raises(NotOpen):
        shop.enqueue(ours, 1)
    connection.execute("ROLLBACK")
    assert connection.execute("SELECT count(*) FROM sitq_task").fetchone() == (0,)


def test_a_connection_of_another_thread(
    connection: sqlite3.Connection, shop: SyncTaskQueue
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    connection.execute("BEGIN")
    with ThreadPoolExecutor() as pool:
        refused = pool.submit(shop.enqueue, f.echo.using(connection=connection), 1).exception()
    assert isinstance(refused, UsageError)
    connection.execute("ROLLBACK")


# On PostgreSQL.


def test_on_postgresql(postgres_url: str, loop: str) -> None:
    queue = SyncTaskQueue(postgres_url, loop=loop)  # type: ignore[arg-type]
    with psycopg.connect(server_url()) as connection:
        ours = f.echo.using(connection=connection)
        with connection.transaction():
            handle = queue.enqueue(ours, 1)
            assert queue.find() == []
        connection.commit()
        assert [task.id for task in queue.find()] == [handle.id]
        queue.enqueue_many([ours.call(2)])
        connection.rollback()
        assert len(queue.find()) == 1
    with pytest.raises(UsageError, match="closed"):
        queue.enqueue(ours, 1)
    queue.close()


def test_what_is_refused_on_postgresql(postgres_url: str) -> None:
    async def connected() -> Any:
        async with await psycopg.AsyncConnection.connect(server_url()) as connection:
            with pytest.raises(InvalidOption, match="event loop"):
                queue.enqueue(f.echo.using(connection=connection), 1)

    with SyncTaskQueue(postgres_url) as queue:
        anyio.run(connected)
        with closing(sqlite3.connect(":memory:")) as connection:
            with pytest.raises(InvalidOption, match="psycopg"):
                queue.enqueue(f.echo.using(connection=connection), 1)
            assert queue._backend.insert_here(connection, []) == []
    with pytest.raises(NotOpen):
        queue._backend.insert_here(None, [])

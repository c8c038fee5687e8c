"""What the tasks of a worker share: opened before the first task, closed after the last."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field

import anyio

from sitq import SQLiteBackend, TaskQueue, Worker, current_task, task


@dataclass
class Shop:
    """What costs something to open: here a database, and prices that a task of its own keeps up."""

    database: sqlite3.Connection
    prices: dict[str, int] = field(default_factory=dict)

    async def keep_prices(self) -> None:
        while True:
            self.prices = dict(self.database.execute("SELECT name, price FROM goods"))
            await anyio.sleep(10)


@asynccontextmanager
async def lifespan() -> AsyncIterator[Shop]:
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as database:
        database.execute("CREATE TABLE goods (name TEXT, price INTEGER)")
        database.execute("INSERT INTO goods VALUES ('bread', 4), ('wine', 11)")
        shop = Shop(database)
        async with anyio.create_task_group() as group:
            group.start_soon(shop.keep_prices)
            print("the shop opens")
            yield shop
            group.cancel_scope.cancel()
    print("the shop has closed")


def shop() -> Shop:
    return current_task().resources


@task
async def price(name: str, number: int) -> int:
    return shop().prices[name] * number


@task
def names() -> list[str]:  # in a thread: it sees the same object
    return sorted(shop().prices)


async def main() -> None:
    backend = SQLiteBackend(":memory:")
    async with TaskQueue(backend) as queue, Worker(backend, lifespan=lifespan):
        print(await (await queue.enqueue(names)).result())
        print("three bottles:", await (await queue.enqueue(price, "wine", 3)).result())


anyio.run(main)

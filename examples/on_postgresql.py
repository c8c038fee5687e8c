"""PostgreSQL as the store: rows and tasks committed together, two worker processes, a group.

Name a database in which it may make a schema, which is dropped at the end:

    python examples/on_postgresql.py postgresql://me@localhost/test

or name it as SITQ_EXAMPLE_POSTGRES in the environment.
"""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import anyio

from sitq import PostgresBackend, TaskQueue, Worker, task

URL = "SITQ_EXAMPLE_POSTGRES"


@task
async def send_invoice(order: int) -> str:
    return f"invoice of order {order}"


@task
async def pack(parcel: int) -> int:
    await anyio.sleep(0.02)
    return os.getpid()


async def serve(schema: str) -> None:
    """A worker that ends gracefully when its standard input is closed."""
    async with Worker(PostgresBackend(os.environ[URL], schema=schema), max_concurrency=2):
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)


async def sell(queue: TaskQueue, schema: str) -> None:
    """Enqueue in transactions of our own: what is rolled back has no task."""
    import psycopg  # an extra: pip install 'sitq[postgres]'

    with psycopg.connect(os.environ[URL], autocommit=True) as connection:
        connection.execute(f"SET search_path TO {schema}")
        connection.execute("CREATE TABLE orders (id int)")
        for order in (1, 2):
            with connection.transaction() as transaction:
                connection.execute("INSERT INTO orders VALUES (%s)", [order])
                invoice = send_invoice.using(connection=connection)
                handle = await queue.enqueue(invoice, order)
                if order == 2:
                    raise psycopg.Rollback(transaction)
            if order == 1:
                print("committed:", await handle.result(timeout=30))
            else:
                print("rolled back:", "a task" if await queue.get(handle) else "no task")


async def hand_out(schema: str) -> None:
    async with TaskQueue(PostgresBackend(os.environ[URL], schema=schema)) as queue:
        with ExitStack() as workers:
            for _ in range(2):
                worker = start_worker(schema)
                workers.callback(worker.communicate)  # closes its standard input, waits for it
                worker.stdout.readline()
            await sell(queue, schema)
            async with queue.task_group() as tg:  # ends when all of them have ended
                parcels = await tg.enqueue_many([pack.call(number) for number in range(20)])
            packers = {await parcel.result() for parcel in parcels}
            print(f"packed: {len(parcels)} parcels, by {len(packers)} processes")


def start_worker(schema: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--worker", schema]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def drop(schema: str) -> None:
    import psycopg

    with psycopg.connect(os.environ[URL], autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        anyio.run(serve, sys.argv[2])
        return
    named = [argument for argument in sys.argv[1:] if argument != "--demo"]
    if named:
        os.environ[URL] = named[0]  # the workers find it there too
    if URL not in os.environ:
        print(f"{Path(__file__).name} needs a database: name it as postgresql://... or in {URL}")
        return
    schema = f"sitq_example_{os.getpid()}"
    try:
        anyio.run(hand_out, schema)
    finally:
        drop(schema)


if __name__ == "__main__":
    main()

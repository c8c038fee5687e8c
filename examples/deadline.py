"""A deadline that crosses three processes: it is set in one, and cancels in the others.

Run without arguments, this script starts two workers, each in a process of its own. What it asks
for takes a minute, and gets two seconds.
"""

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import anyio

from sitq import Registry, SQLiteBackend, TaskQueue, Worker
from sitq.errors import TaskFailed

registry = Registry()
queues: list[TaskQueue] = []


@registry.task(name="translate", queue="books")
async def translate(book: str) -> None:
    """Runs in the first worker; its children run in the second one."""
    left = anyio.current_effective_deadline() - anyio.current_time()
    print(f"{book}: {left:.0f} s are left", flush=True)
    async with queues[0].task_group() as tg:
        await tg.enqueue_many([translate_page.call(book, page) for page in (1, 2)])


@registry.task(name="translate_page", queue="pages")
async def translate_page(book: str, page: int) -> None:
    left = anyio.current_effective_deadline() - anyio.current_time()
    print(f"{book}, page {page}: {left:.0f} s are left", flush=True)
    try:
        await anyio.sleep(60)
    finally:
        print(f"{book}, page {page}: stopped", flush=True)


async def serve(database: str, name: str) -> None:
    """A worker that ends gracefully when its standard input is closed."""
    backend = SQLiteBackend(database)
    queues.append(TaskQueue(backend))
    async with Worker(backend, registry=registry, queues=[name]):
        await anyio.to_thread.run_sync(sys.stdin.read)


async def ask(database: str) -> None:
    async with TaskQueue(SQLiteBackend(database)) as queue:
        began = time.monotonic()
        try:
            with anyio.move_on_after(2) as scope:
                async with queue.task_group() as tg:
                    await tg.enqueue(translate, "Ulysses")
        except* TaskFailed as failures:
            for failure in failures.exceptions:
                print("failed:", failure.result.error.type)
        if scope.cancelled_caught:
            print("time is up here")
        print(f"{time.monotonic() - began:.0f} s have passed")


def start_worker(database: str, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--worker", database, name]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        anyio.run(serve, *sys.argv[2:])
        return
    with tempfile.TemporaryDirectory() as folder, ExitStack() as workers:
        database = str(Path(folder, "tasks.db"))
        for name in ("books", "pages"):
            worker = start_worker(database, name)
            workers.callback(worker.communicate)  # closes its standard input, waits for its end
        anyio.run(ask, database)


if __name__ == "__main__":
    main()

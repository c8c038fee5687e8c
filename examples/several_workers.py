"""Several processes, one file: each of them runs a worker, and together they run every task once.

Run without arguments, this script starts three copies of itself as workers, enqueues tasks, and
tells which process ran how many.
"""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import anyio

from sitq import SQLiteBackend, TaskQueue, Worker, task


@task
async def who_runs_me(number: int) -> int:
    await anyio.sleep(0.02)
    return os.getpid()


async def serve(database: str) -> None:
    """A worker that ends gracefully when its standard input is closed."""
    async with Worker(SQLiteBackend(database), max_concurrency=2):
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)


async def hand_out(database: str) -> None:
    async with TaskQueue(SQLiteBackend(database)) as queue:
        handles = await queue.enqueue_many([who_runs_me.call(n) for n in range(120)])
        ran = Counter([await handle.result(timeout=30) for handle in handles])
    for pid, tasks in sorted(ran.items()):
        print(f"process {pid} ran {tasks} tasks")
    print(f"{ran.total()} tasks in all, by {len(ran)} processes")


def start_worker(database: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--worker", database]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        anyio.run(serve, sys.argv[2])
        return
    with tempfile.TemporaryDirectory() as folder:
        database = str(Path(folder, "tasks.db"))
        workers = [start_worker(database) for _ in range(3)]
        try:
            for worker in workers:
                worker.stdout.readline()
            anyio.run(hand_out, database)
        finally:
            for worker in workers:
                worker.communicate()  # closes its standard input and waits for its end


if __name__ == "__main__":
    main()

"""A tree of tasks over the standard library: folders, their files, the functions in them.

The tasks of a folder wait for those below them, on workers in processes of their own, and killing
any of these loses nothing: `python examples/survey_tree.py --kill` does that all the time.
"""

import argparse
import ast
import random
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import anyio

from sitq import SQLiteBackend, TaskQueue, Worker, task

ROOT = Path(sysconfig.get_path("stdlib"))
SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "lib2to3"}
LEASE = 1.0
queues: list[TaskQueue] = []


@task
async def survey(folder: str, depth: int) -> dict[str, int]:
    """The number of files, functions and lines in a folder, and the longest function."""
    entries = listed(folder)
    async with queues[0].task_group() as tg:
        found = [
            await tg.enqueue(read.using(child=entry.name), str(entry.relative_to(ROOT)))
            for entry in entries
            if entry.suffix == ".py"
        ]
        if depth:
            found += [
                await tg.enqueue(
                    survey.using(child=entry.name), str(entry.relative_to(ROOT)), depth - 1
                )
                for entry in entries
                if entry.is_dir() and entry.name not in SKIPPED
            ]
    return added([await handle.result() for handle in found])


@task
async def read(path: str) -> dict[str, int]:
    """The functions of a file, each measured by a task of its own if there are only a few."""
    lines, sizes = parsed(path)
    async with queues[0].map(measure, sizes[:3]) as measured:
        longest = max([lines async for lines in measured], default=0)
    return {"files": 1, "functions": len(sizes), "lines": lines, "longest": longest}


@task
async def measure(lines: int) -> int:
    return lines


def listed(folder: str) -> list[Path]:
    return sorted(Path(ROOT, folder).iterdir())


def parsed(path: str) -> tuple[int, list[int]]:
    """The number of lines in a file, and that of each function."""
    source = Path(ROOT, path).read_text(encoding="utf-8", errors="replace")
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    return source.count("\n"), [node.end_lineno - node.lineno + 1 for node in functions]


def added(surveys: list[dict[str, int]]) -> dict[str, int]:
    total = {"files": 0, "functions": 0, "lines": 0, "longest": 0}
    for one in surveys:
        for name, number in one.items():
            total[name] = max(total[name], number) if name == "longest" else total[name] + number
    return total


async def serve(database: str) -> None:
    backend = SQLiteBackend(database, synchronous="NORMAL")
    queues.append(TaskQueue(backend))
    async with Worker(backend, max_concurrency=20, lease=LEASE, crash_limit=1_000):
        await anyio.to_thread.run_sync(sys.stdin.read)


async def ask(database: str, workers: list[subprocess.Popen], folder: str, kill: bool) -> None:
    async with TaskQueue(SQLiteBackend(database, synchronous="NORMAL")) as queue:
        handle = await queue.enqueue(survey, folder, 1)
        result = None
        killed = 0
        while result is None:
            result = await queue.get_result(handle, timeout=1.5 if kill else 60)
            if kill and result is None:
                victim = random.choice(workers)
                victim.send_signal(signal.SIGKILL)
                victim.wait()
                workers[workers.index(victim)] = start_worker(database)
                killed += 1
        counts = await queue.counts()
        print(f"{result.state}: {result.value}")
        print(f"{counts['succeeded']:,} tasks, {killed} workers killed")


def start_worker(database: str) -> subprocess.Popen:
    command = [sys.executable, __file__, "--worker", database]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", nargs="?", default=".", help="in the standard library")
    options.add_argument("--kill", action="store_true", help="kill a worker now and then")
    options.add_argument("--worker", metavar="DATABASE", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.worker:
        anyio.run(serve, chosen.worker)
        return
    with tempfile.TemporaryDirectory() as temporary:
        database = str(Path(temporary, "tasks.db"))
        workers = [start_worker(database) for _ in range(2)]
        try:
            anyio.run(ask, database, workers, chosen.folder, chosen.kill)
        finally:
            for worker in workers:
                worker.communicate()  # closes its standard input and waits for its end


if __name__ == "__main__":
    main()

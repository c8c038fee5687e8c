"""Index the standard library: one durable task a file.

Run it, kill it at any moment, run it again: what was finished is kept, what was under way is done
again, and every file is counted once.

    python examples/index_stdlib.py
    python examples/index_stdlib.py --backend-loop trio --db /tmp/index.db --limit 300
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
import sysconfig
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio

from sitq import SQLiteBackend, TaskHandle, TaskQueue, Worker, task
from sitq.errors import TaskCancelled, TaskFailed

STDLIB = Path(sysconfig.get_path("stdlib"))
SKIPPED = {"site-packages", "dist-packages", "__pycache__"}
COLUMNS = ("lines", "functions", "classes", "imports")
PAGE = 1000
# Threads that parse at the same time break each other on some versions of CPython ("AST constructor
# recursion depth mismatch"); as only one of them has the interpreter, a lock costs nothing.
PARSING = threading.Lock()


@task
def index_file(path: str) -> dict[str, Any]:
    """Count what a file of the standard library holds. It runs in a thread of the worker."""
    try:
        source = (STDLIB / path).read_bytes()
        with PARSING:
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    nodes = list(ast.walk(tree))
    return {
        "lines": len(source.splitlines()),
        "functions": sum(isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in nodes),
        "classes": sum(isinstance(n, ast.ClassDef) for n in nodes),
        "imports": sum(isinstance(n, (ast.Import, ast.ImportFrom)) for n in nodes),
    }


def stdlib_files(limit: int | None = None) -> list[str]:
    """The paths of all Python files of the standard library, relative to it."""
    found: list[str] = []
    for folder, folders, names in os.walk(STDLIB):
        folders[:] = [name for name in folders if name not in SKIPPED]
        paths = (Path(folder, name) for name in names if name.endswith(".py"))
        found += [path.relative_to(STDLIB).as_posix() for path in paths]
    return sorted(found)[:limit]


async def finished(queue: TaskQueue) -> dict[str, UUID]:
    """Which files are done, and by which task."""
    done: dict[str, UUID] = {}
    last = 0
    while page := await queue.find(name=index_file.name, state="succeeded", after=last, limit=PAGE):
        done.update((found.key, found.id) for found in page if found.key is not None)
        last = page[-1].seq
    return done


class Progress:
    """A line that is rewritten on a terminal; elsewhere a new line every so often."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.live = sys.stdout.isatty()
        self.step = max(1, total // (200 if self.live else 20))

    def advance(self) -> None:
        self.done += 1
        if self.done % self.step and self.done != self.total:
            return
        end = "\n" if self.done == self.total or not self.live else ""
        start = "\r" if self.live else ""
        print(f"{start}indexed {self.done} of {self.total}", end=end, flush=True)


async def follow(handle: TaskHandle[Any], progress: Progress, troubles: list[str]) -> None:
    try:
        await handle.result()
    except (TaskFailed, TaskCancelled) as error:
        troubles.append(str(error))
    progress.advance()


async def index(database: str, limit: int | None, lease: float) -> int:
    started = time.perf_counter()
    files = stdlib_files(limit)
    backend = SQLiteBackend(database)
    async with TaskQueue(backend) as queue:
        before = (await finished(queue)).keys() & set(files)
        rest = [path for path in files if path not in before]
        print(f"{len(files)} files, {len(before)} of them done before, {len(rest)} to do")

        # The key makes a task that an earlier run left behind be the same task, not a second one.
        calls = [index_file.using(key=path).call(path) for path in rest]
        handles = await queue.enqueue_many(calls)
        progress, troubles = Progress(len(rest)), []

        # With a short lease, the tasks of a run that was killed come back within seconds. Results
        # are wanted however old they are, so none is thrown away.
        async with (
            Worker(backend, max_concurrency=4, lease=lease, grace=5, retention=None),
            anyio.create_task_group() as waiters,
        ):
            for handle in handles:
                waiters.start_soon(follow, handle, progress, troubles)

        await summarize(queue, files, len(before), time.perf_counter() - started)
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    return 1 if troubles else 0


async def summarize(queue: TaskQueue, files: list[str], before: int, seconds: float) -> None:
    done = await finished(queue)
    totals: Counter[str] = Counter()
    indexed = 0
    for path in files:
        result = await queue.get_result(done[path]) if path in done else None
        if result is None:
            continue
        indexed += 1
        if "error" in result.value:
            totals["errors"] += 1
        else:
            totals.update(result.value)

    rows = {"files": indexed} | {name: totals[name] for name in (*COLUMNS, "errors")}
    rows |= {"done before": before, "done in this run": indexed - before}
    print()
    for name, figure in rows.items():
        print(f"{name:<18}{figure:>12,}")
    print(f"{'seconds':<18}{seconds:>12.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Index the standard library, one task a file.")
    parser.add_argument("--backend-loop", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--db", metavar="PATH", default="index_stdlib.db", help="the database")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N files")
    parser.add_argument(
        "--lease",
        metavar="SECONDS",
        type=float,
        default=2.0,
        help="about how long after a kill the tasks that were under way are done again",
    )
    options = parser.parse_args()
    # Some files warn when they are parsed; that is theirs to mend.
    for category in (SyntaxWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category)
    status = 130
    try:
        status = anyio.run(
            index, options.db, options.limit, options.lease, backend=options.backend_loop
        )
    except* KeyboardInterrupt:
        print("\nstopped; run it again to do the rest", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())

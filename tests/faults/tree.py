"""Kills workers at random while they run trees of tasks, and checks that nothing came of it.

`python -m tests.faults.tree --kills 500 --seed 1`. Each tree has three levels; its leaves write to
a journal what they did. A worker, at a time picked at random, is killed and another started. At the
end every leaf has done its work once at least and settled once, every result is right, and no task
is left.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import anyio

from sitq import Registry, SQLiteBackend, TaskQueue, Worker

registry = Registry()
queues: list[TaskQueue] = []
BRANCHES, LEAVES = 3, 4
LEASE = 0.4
JOURNAL = os.environ.get("SITQ_TREE_JOURNAL", "")


@registry.task(name="root")
async def root(tree: int) -> int:
    async with queues[0].task_group() as tg:
        branches = [await tg.enqueue(branch, tree, number) for number in range(BRANCHES)]
    return sum([await handle.result() for handle in branches])


@registry.task(name="branch")
async def branch(tree: int, number: int) -> int:
    calls = [leaf.using(child=f"leaf {n}").call(tree, number, n) for n in range(LEAVES)]
    async with queues[0].task_group() as tg:
        handles = await tg.enqueue_many(calls)
        done = [await handle.result() async for handle in tg.as_completed()]
    assert len(done) == len(handles)
    return sum(done)


@registry.task(name="leaf")
async def leaf(tree: int, number: int, place: int) -> int:
    with open(JOURNAL, "a", encoding="ascii") as journal:  # noqa: ASYNC230
        journal.write(f"{tree}.{number}.{place}\n")
    await anyio.sleep(0.01)
    return 1


async def serve(path: str) -> None:
    backend = SQLiteBackend(path, synchronous="NORMAL")
    queues.append(TaskQueue(backend))
    worker = Worker(backend, registry=registry, max_concurrency=3, lease=LEASE, crash_limit=1_000)
    async with worker:
        await anyio.to_thread.run_sync(sys.stdin.read)


class Crew:
    """Worker processes, one of which is killed now and then."""

    def __init__(self, path: str, journal: str, rng: random.Random, number: int = 3) -> None:
        self._command = [sys.executable, "-m", "tests.faults.tree", "--serve", path]
        self._environment = {**os.environ, "SITQ_TREE_JOURNAL": journal}
        self._rng = rng
        self.kills = 0
        self._processes = [self._start() for _ in range(number)]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, env=self._environment)

    def kill_one(self) -> None:
        which = self._rng.randrange(len(self._processes))
        self._processes[which].send_signal(signal.SIGKILL)
        self._processes[which].communicate()
        self._processes[which] = self._start()
        self.kills += 1

    def end(self) -> None:
        for process in self._processes:
            process.communicate(timeout=60)


async def torment(path: str, journal: str, kills: int, seed: int) -> int:
    """Run trees until there were so many kills. Returns how many trees it were."""
    rng = random.Random(seed)
    trees = 0
    async with SQLiteBackend(path, synchronous="NORMAL") as backend:
        queue = TaskQueue(backend)
        crew = Crew(path, journal, rng)
        try:
            handles = await queue.enqueue_many([root.call(n) for n in range(4)])
            trees = len(handles)
            while handles:
                if crew.kills < kills:
                    await anyio.sleep(rng.uniform(0.05, 0.5))
                    await anyio.to_thread.run_sync(crew.kill_one)
                result = await queue.get_result(handles[0], 0.01 if crew.kills < kills else 120)
                if result is not None:
                    assert result.value == BRANCHES * LEAVES, result
                    handles.pop(0)
                    if crew.kills < kills:
                        handles.append(await queue.enqueue(root, trees))
                        trees += 1
        finally:
            await anyio.to_thread.run_sync(crew.end)
    return trees


def check(path: str, journal: str, trees: int) -> Counter[str]:
    """What became of it. Returns how many leaves ran how often."""
    with closing(connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        found = connection.execute("SELECT name, state, count(*) FROM sitq_task GROUP BY 1, 2")
        assert {(name, state): number for name, state, number in found} == {
            ("root", 2): trees,
            ("branch", 2): trees * BRANCHES,
            ("leaf", 2): trees * BRANCHES * LEAVES,
        }
    lines = Counter(Path(journal).read_text(encoding="ascii").splitlines())
    expected = {
        f"{tree}.{number}.{place}"
        for tree in range(trees)
        for number in range(BRANCHES)
        for place in range(LEAVES)
    }
    assert set(lines) == expected, "a leaf never ran, or one ran that nobody asked for"
    return lines


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=500)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--serve", metavar="PATH", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.serve:
        anyio.run(serve, chosen.serve)
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path, journal = str(Path(folder, "tasks.db")), str(Path(folder, "journal"))
        trees = anyio.run(torment, path, journal, chosen.kills, chosen.seed)
        lines = check(path, journal, trees)
    print(
        f"{chosen.kills} kills, {trees} trees, {len(lines)} leaves, of which "
        f"{sum(number > 1 for number in lines.values())} ran more than once, "
        f"{time.monotonic() - began:.0f} s: all settled once, every result right"
    )


if __name__ == "__main__":
    main()

"""Uses all of sitq on one file, and watches every statement and every file that is opened.

``python watched.py DATABASE LOOP`` is to run several times at once. It ends with an error if a
transaction that writes did not begin as one, or if a file of the database was opened beside SQLite.
"""

from __future__ import annotations

import functools
import os
import re
import sqlite3
import sys
from collections import Counter
from contextlib import suppress
from typing import Any

import anyio

from sitq import Registry, Retry, SQLiteBackend, TaskQueue, Worker
from sitq.backends.sqlite import connect

WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "DROP", "ALTER")
COMMENT = re.compile("^--.*", re.MULTILINE)
ALONE = {
    "INSERT INTO sitq_turn": "turns",
    "INSERT INTO sitq_task": "inserts",
    "WITH v (id,": "inserts",
}
FILE_EVENTS = ("open", "os.remove", "os.rename", "os.truncate", "os.link", "shutil.copyfile")
ROUNDS = 8
path, loop = sys.argv[1:]
files = {path, f"{path}-wal", f"{path}-shm"}
seen: Counter[str] = Counter()
faults: list[str] = []
registry = Registry()


class Traced(sqlite3.Connection):
    """Notes each statement, and what SQLite refuses because a snapshot is too old."""

    def __init__(self, database: str, *args: Any, **options: Any) -> None:
        super().__init__(database, *args, **options)
        self._begun = ""
        if database == path:
            self.set_trace_callback(self._check)

    def execute(self, *args: Any) -> sqlite3.Cursor:
        try:
            return super().execute(*args)
        except sqlite3.OperationalError as error:
            seen["locked"] += 1
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY_SNAPSHOT:
                faults.append(f"snapshot too old: {args[0]}")
            raise

    def _check(self, statement: str) -> None:
        words = COMMENT.sub("", statement).split()
        verb = words[0].upper()
        alone = "" if self._begun else " ".join(words[:3])
        if alone in ALONE:  # a whole transaction that begins to write
            seen[ALONE[alone]] += 1
        elif words[:2] == ["CREATE", "TEMP"]:
            pass
        elif verb == "BEGIN":
            seen["begun"] += 1
            self._begun = statement
            if statement != "BEGIN IMMEDIATE":
                faults.append(statement)
        elif verb in ("SAVEPOINT", "ATTACH"):
            faults.append(statement)
        elif verb in WRITES or (verb == "WITH" and any(word in WRITES for word in words)):
            seen["written"] += 1
            if not self._begun:
                faults.append(f"outside of a transaction: {statement}")
        elif verb in ("COMMIT", "ROLLBACK"):
            self._begun = ""


def watch_files(event: str, args: tuple[Any, ...]) -> None:
    if event in FILE_EVENTS and any(
        isinstance(one, (str, bytes, os.PathLike)) and os.fsdecode(one) in files for one in args
    ):
        faults.append(f"{event} {args}")


@registry.task(name="work")
async def work(text: str) -> str:
    return text


@registry.task(name="fail", retry=Retry(attempts=2, base=0.001, cap=0.002))
def fail() -> None:
    raise ValueError("no")


async def use(queue: TaskQueue) -> None:
    for number in range(ROUNDS):
        handles = await queue.enqueue_many([work.call("x" * 2_000 * (number % 2)), fail.call()])
        await queue.enqueue(work.using(key=f"key {number}"), "once")
        late = await queue.enqueue(work.using(delay=3_600), "late")
        await queue.enqueue_many([work.using(delay=3_600).call("late")] * 3)
        await late.cancel()
        await queue.retry(late)
        for handle in handles:
            await queue.get_result(handle, timeout=30)
        await queue.find(limit=5)
        await queue.purge(name="fail")
        await queue.counts()


async def main() -> None:
    backend = SQLiteBackend(path)
    await backend.open()
    sys.addaudithook(watch_files)
    connect.LARGE_LOG = 10_000  # so that the sweeps of the worker cut the log
    other = SQLiteBackend(path)
    worker = Worker(backend, registry=registry, lease=0.3)
    async with other, TaskQueue(other) as queue, worker:
        await use(queue)
    await backend.close()
    async with backend:
        await backend.counts()


sqlite3.connect = functools.partial(sqlite3.connect, factory=Traced)
anyio.run(main, backend=loop)
found = len(faults)
with suppress(OSError):
    open(path).close()
assert len(faults) == found + 1, "the hook is deaf"
assert not found, "\n".join(faults[:found])
print(dict(seen))

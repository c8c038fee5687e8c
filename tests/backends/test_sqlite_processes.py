"""What other processes, a fork and a restart of the machine do to a database file."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from sitq import SQLiteBackend, State, TaskQueue
from sitq.backends.base import Sweep, Wanted
from sitq.calls import new_ids
from sitq.errors import NotOpen
from sitq.model import NewTask, Reservation, WorkerRecord
from sitq.testing import Clock

pytestmark = pytest.mark.anyio

FORKS = """
import asyncio, os, sys, warnings
from sitq import SQLiteBackend
from sitq.errors import NotOpen

warnings.simplefilter("ignore")
backend = SQLiteBackend(sys.argv[1])

def fork_and_use():
    child = os.fork()
    if child == 0:
        try:
            asyncio.new_event_loop().run_until_complete(backend.counts())
        except NotOpen as error:
            os._exit(0 if "before a fork" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    child = os.fork()
    if child == 0:
        try:
            asyncio.new_event_loop().run_until_complete(backend.close())
        except NotOpen as error:
            os._exit(0 if "before a fork" in str(error) else 3)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

async def main():
    await backend.counts()
    fork_and_use()
    await backend.counts()

asyncio.run(main())
fork_and_use()
"""

ENQUEUES = """
import anyio, sys
from sitq import SQLiteBackend, TaskQueue, task

@task(name="nothing")
async def nothing(): ...

async def main():
    async with TaskQueue(SQLiteBackend(sys.argv[1], synchronous=sys.argv[2])) as queue:
        for line in sys.stdin:
            await queue.enqueue(nothing)

anyio.run(main)
"""


NEW_IN_THE_CHILD = """
import anyio, os, sys, warnings
from sitq import SQLiteBackend
from sitq.errors import NotOpen

warnings.simplefilter("ignore")

def in_a_child():
    child = os.fork()
    if child == 0:
        try:
            anyio.run(SQLiteBackend(sys.argv[1]).counts)
        except NotOpen as error:
            os._exit(1 if "before a fork" in str(error) else 2)
        except BaseException:
            os._exit(3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

async def main():
    backend = SQLiteBackend(sys.argv[1])
    async with SQLiteBackend(sys.argv[1]):
        async with backend:
            await anyio.to_thread.run_sync(refused)
        await anyio.to_thread.run_sync(refused)
    await anyio.to_thread.run_sync(works)
    await backend.close()

def refused():
    assert in_a_child() == 1

def works():
    assert in_a_child() == 0

works()
anyio.run(main)
works()
"""


def test_a_file_that_is_open_is_refused_in_a_forked_child(tmp_path: Path) -> None:
    """There is no lock of the child on it, and SQLite in the child believes that there is."""
    command = [sys.executable, "-P", "-c", NEW_IN_THE_CHILD, str(tmp_path / "tasks.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def test_a_forked_child_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", FORKS, str(tmp_path / "tasks.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


async def test_another_loop_can_neither_use_nor_close_it(tmp_path: Path) -> None:
    def elsewhere() -> None:
        for verb in (backend.counts, backend.open, backend.close):
            with pytest.raises(NotOpen, match="another event loop"):
                anyio.run(verb)

    async with SQLiteBackend(tmp_path / "tasks.db") as backend:
        await anyio.to_thread.run_sync(elsewhere)
        assert sum((await backend.counts()).values()) == 0


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
async def test_every_commit_of_another_process_wakes(tmp_path: Path, synchronous: str) -> None:
    path = tmp_path / "tasks.db"
    command = [sys.executable, "-P", "-c", ENQUEUES, str(path), synchronous]
    async with SQLiteBackend(path) as backend:
        queue = TaskQueue(backend)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        assert process.stdin is not None
        with process, anyio.fail_after(30):
            for number in range(1, 41):
                token = backend.token()
                process.stdin.write("\n")
                process.stdin.flush()
                while (await queue.counts())[State.PENDING] < number:
                    await backend.changed(token)
                    token = backend.token()
            process.stdin.close()


async def test_a_worker_of_another_boot_is_dead_after_a_whole_lease(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "tasks.db"
    async with SQLiteBackend(path, clock=clock) as backend:
        now = clock.time()
        await backend.insert(
            [NewTask(*new_ids(now, 1), "f", "q", 0, now, None, None, None, None, b"", now)]
        )
        record = WorkerRecord("host", 1, None, 1, 15.0)
        old, new = await backend.hire(record), await backend.hire(record)
        taken: list[Reservation] = []
        await backend.reserve(old, Wanted(1, None), taken.extend)
        stranger = sqlite3.connect(path)
        with stranger:
            stranger.execute(
                "UPDATE sitq_worker SET boot = 'before', beat = 1e9 WHERE id = ?", (old,)
            )
        stranger.close()

        async def crashes() -> int:
            found = await backend.recover(new, Sweep(3, 300.0))
            return len(found.crashed)

        assert await crashes() == 0  # suspected from here on
        clock.travel(14.9)
        assert await crashes() == 0
        clock.travel(0.2)
        assert await crashes() == 1

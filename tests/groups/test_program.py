"""Groups of programs: under a lease, which ends with them, or with their process."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import anyio
import pytest

from sitq import SQLiteBackend, State, TaskQueue
from sitq.backends.commit import GroupCommit
from sitq.errors import InvalidOption, LeaseLost, TaskFailed, UsageError

from . import functions as f
from .conftest import until, worker

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import anyio
from sitq import SQLiteBackend, TaskQueue
import sitq.lease
from tests.groups.functions import sleep

sitq.lease.PROGRAM_LEASE = 0.6

async def main(path, detach):
    async with TaskQueue(SQLiteBackend(path)) as queue:
        async with queue.task_group(detach=detach) as tg:
            await tg.enqueue_many([sleep.call(), sleep.using(delay=3600).call()])
            print("open", flush=True)
            await anyio.sleep(60)

anyio.run(main, sys.argv[1], sys.argv[2] == "detach")
"""


async def test_its_lease_ends_with_its_last_group(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with queue.task_group(), queue.task_group():
        assert [row.queues for row in await backend.workers()] == [()]
        assert await queue.workers() == []  # it is no worker
    assert await backend.workers() == []
    async with queue.task_group():
        assert len(await backend.workers()) == 1
    assert await backend.workers() == []


async def test_an_empty_group_is_two_transactions(
    backend: SQLiteBackend, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with queue.task_group():  # what is opened at the first use is open
        pass
    opened = backend._opened
    assert opened is not None
    submitted: list[object] = []
    submit = GroupCommit.submit

    async def count(commit: GroupCommit[Any], operation: Any) -> Any:
        if commit is not opened._looks:
            submitted.append(operation)
        return await submit(commit, operation)

    monkeypatch.setattr(GroupCommit, "submit", count)
    async with queue.task_group():
        pass
    assert len(submitted) <= 2


@pytest.mark.parametrize("mode", ["owned", "detach"])
async def test_when_it_is_killed_its_children_are_cancelled(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "tasks.db"
    async with SQLiteBackend(path, synchronous="NORMAL") as backend:
        queue = TaskQueue(backend)
        f.noted.clear()
        async with worker(backend, lease=0.6, grace=0):
            program = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(PROGRAM), str(path), mode],
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
            try:
                await until(lambda: f.noted == ["started"])
            finally:
                program.send_signal(signal.SIGKILL)
                await anyio.to_thread.run_sync(program.communicate)
            if mode == "owned":
                await until(lambda: "cancelled" in f.noted)
                counts = await queue.counts()
                assert counts[State.CANCELLED] == 2
            else:
                await anyio.sleep(2)
                counts = await queue.counts()
                assert counts[State.CANCELLED] == 0
                assert "cancelled" not in f.noted
            with anyio.fail_after(10):
                while [row for row in await backend.workers() if row.queues == ()]:
                    await anyio.sleep(0.05)


async def test_a_program_that_stood_still_is_told(tmp_path: Path) -> None:
    async with SQLiteBackend(tmp_path / "tasks.db", synchronous="NORMAL") as backend:
        queue = TaskQueue(backend)
        with pytest.raises(ExceptionGroup) as caught:
            async with queue.task_group() as tg:
                [row] = await backend.workers()
                await backend._write(lambda c: _taken(c, row.id))
                await tg.enqueue(f.echo, 1)
        assert {type(error) for error in caught.value.exceptions} == {LeaseLost}


def _taken(connection: object, owner: int) -> None:
    from sitq.backends.sqlite import groups

    groups.bereave(connection, owner, 0.0)  # type: ignore[arg-type]
    connection.execute("DELETE FROM sitq_worker WHERE id = ?", (owner,))  # type: ignore[attr-defined]


async def test_misuse(queue: TaskQueue, backend: SQLiteBackend) -> None:
    with pytest.raises(InvalidOption, match="child"):
        await queue.enqueue(f.echo.using(child="a"), 1)
    for wrong in ("", "#1", "a\nb", 5):
        with pytest.raises(InvalidOption, match="child"):
            f.echo.using(child=wrong)  # type: ignore[arg-type]
    async with worker(backend):
        async with queue.task_group() as tg:
            await tg.enqueue(f.echo.using(child="a"), 1)
            with pytest.raises(InvalidOption, match="another name"):
                await tg.enqueue(f.echo.using(child="a"), 1)
            with pytest.raises(UsageError, match="once"):
                await tg.__aenter__()
        with pytest.raises(TaskFailed, match="detach is for programs"):
            await (await queue.enqueue(f.detached)).result(10)


async def test_a_group_of_another_store_is_a_programs(
    backend: SQLiteBackend, queue: TaskQueue, tmp_path: Path
) -> None:
    async with SQLiteBackend(tmp_path / "other.db", synchronous="NORMAL") as other:
        f.queues[:] = [TaskQueue(other)]
        async with worker(backend), worker(other):
            assert await (await queue.enqueue(f.total, 1, 3)).result(20) == 3
            assert (await TaskQueue(other).counts())[State.SUCCEEDED] == 3

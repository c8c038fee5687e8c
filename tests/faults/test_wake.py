"""Every commit of another process wakes who waits, however slow its disk, and without inotify.

Only the time of a whole test is bounded: with fallbacks as slow as they are here, lost wakes take
longer than that.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from sitq import SQLiteBackend, State, TaskQueue, Worker
from sitq.backends.sqlite import watch

from .disk import Disk
from .program import Program, registry

inotify_simple = pytest.importorskip("inotify_simple", exc_type=ImportError)
pytestmark = pytest.mark.anyio
BOUND = 25.0
"""Seconds for a test."""
FALLBACK = 3.0
"""Seconds after which a lost wake is made good: long, but the machine may be busy with others."""


@pytest.fixture(autouse=True)
def slow_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "TICK", FALLBACK)


async def wake_for_each(
    backend: SQLiteBackend, program: Program, times: int, command: str = "padded 10", tasks: int = 1
) -> None:
    """Wait for what the program enqueues, one command after the other, with nothing but wakes."""
    wanted = (await backend.counts())[State.PENDING]
    for _ in range(times):
        wanted += tasks
        token = backend.token()
        program.post(command)
        while (await backend.counts())[State.PENDING] < wanted:
            await backend.changed(token)
            token = backend.token()


async def test_no_wake_is_lost_while_syncs_are_slow(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    async with SQLiteBackend(disk.path) as backend:
        with Program(disk.path, environment=disk.environment()) as program:
            with anyio.fail_after(BOUND):
                for delay in (0, 1, 5, 20):
                    disk.control.sync_delay = delay * 1_000
                    await wake_for_each(backend, program, 8)
                    await wake_for_each(backend, program, 8, "twice 10", 2)
    assert disk.control.syncs >= 96


async def test_a_commit_that_is_under_way_when_the_watch_begins(tmp_path: Path) -> None:
    """Its writes came too early to be told of, its end comes without any."""
    disk = Disk(tmp_path)
    disk.control.sync_delay = 60_000
    with Program(disk.path, environment=disk.environment()) as program, anyio.fail_after(BOUND):
        for number in range(1, 6):
            async with SQLiteBackend(disk.path) as backend:
                token = backend.token()
                written = disk.control.writes
                program.post("padded 10")
                while disk.control.writes == written:
                    await anyio.lowlevel.checkpoint()
                while (await backend.counts())[State.PENDING] < number:
                    await backend.changed(token)
                    token = backend.token()


async def test_workers_wake_each_other_while_syncs_are_slow(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.control.sync_delay = 5_000
    with Program(disk.path, environment=disk.environment()) as program:
        tell = partial(anyio.to_thread.run_sync, program.tell)
        async with Worker(SQLiteBackend(disk.path), registry=registry, poll_interval=30.0):
            with anyio.fail_after(BOUND):
                for size in range(10):
                    id = await tell(f"enqueue sized {size}")
                    assert await tell(f"result {id}") == str(size)


class Overflowing(inotify_simple.INotify):
    """Always tells of lost events in the place of others."""

    def read(self, *args: Any, **options: Any) -> list[Any]:
        flags = inotify_simple.flags
        lost = [inotify_simple.Event(-1, flags.Q_OVERFLOW, 0, "")]
        return lost if super().read(*args, **options) else []


class NoWatches(inotify_simple.INotify):
    """The kernel gives out no more watches."""

    def add_watch(self, *_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def no_instances() -> Any:
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("kernel", [Overflowing, NoWatches, no_instances])
async def test_a_wake_without_the_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: Any
) -> None:
    monkeypatch.setattr(inotify_simple, "INotify", kernel)
    async with SQLiteBackend(tmp_path / "tasks.db") as backend:
        with Program(tmp_path / "tasks.db") as program, anyio.fail_after(BOUND):
            await wake_for_each(backend, program, 10)


WITHOUT_INOTIFY = [
    *("unshare", "--user", "--map-root-user", "sh", "-c"),
    'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"',
    "sh",
]


async def test_a_worker_in_a_system_that_has_run_out_of_inotify(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("there is no command unshare")
    if subprocess.run([*WITHOUT_INOTIFY, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a user namespace of one's own is not to be had here")
    async with SQLiteBackend(tmp_path / "tasks.db") as backend:
        with Program(tmp_path / "tasks.db", under=WITHOUT_INOTIFY) as program:
            program.tell("work 15 30")
            with anyio.fail_after(BOUND):
                for size in range(10):
                    handle = await TaskQueue(backend).enqueue(registry.get("sized"), size)
                    assert await handle.result() == bytes(size)

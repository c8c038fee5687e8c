"""An event loop that never rests leaves the interpreter to the threads of its worker."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from sitq import Registry, SQLiteBackend, State, TaskQueue, Worker
from sitq.backends.sqlite.opened import FileHeart
from sitq.worker import courtesy

pytestmark = pytest.mark.anyio

LEASE = 0.9
CROWDED = 2 * LEASE
"""Seconds."""

registry = Registry()


@registry.task(name="crowd")
async def crowd(step: float) -> None:
    """Steps that are shorter than the switch interval of the interpreter, without a pause."""
    end = time.monotonic() + CROWDED
    while time.monotonic() < end:
        began = time.monotonic()
        while time.monotonic() < began + step:
            pass
        await anyio.lowlevel.checkpoint()


@registry.task(name="quick")
async def quick() -> None:
    pass


@registry.task(name="rest")
async def rest() -> None:
    await anyio.sleep(CROWDED / 2)


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the lease was renewed."""
    found: list[float] = []
    beat = FileHeart.beat

    def noted(self: FileHeart, lag: float) -> bool:
        held = beat(self, lag)
        found.append(time.monotonic())
        return held

    monkeypatch.setattr(FileHeart, "beat", noted)
    return found


@pytest.mark.parametrize("step", [0.0003, 0.001])
async def test_the_lease_is_renewed_and_ends_are_settled(
    tmp_path: Path, beats: list[float], step: float
) -> None:
    backend = SQLiteBackend(tmp_path / "tasks.db", synchronous="NORMAL")
    async with TaskQueue(backend) as queue:
        long = await queue.enqueue(crowd, step)
        short = [await queue.enqueue(quick) for _ in range(3)]
        async with Worker(backend, registry=registry, lease=LEASE):
            began = time.monotonic()
            for handle in short:
                await handle.result()
            assert await long.status() is State.RUNNING
            await long.result()
            ended = time.monotonic()
        [crashes] = {(await handle.get()).crashes for handle in (long, *short)}
    assert crashes == 0
    assert sum(began < beat < ended for beat in beats) >= 3  # of six


async def test_threads_are_let_in_only_while_the_loop_does_not_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_in: list[float] = []
    monkeypatch.setattr(courtesy, "_let_threads_in", lambda: let_in.append(time.monotonic()))
    monkeypatch.setattr(courtesy, "RESTLESS", 0.2)  # on a busy machine it gets no more
    backend = SQLiteBackend(tmp_path / "tasks.db", synchronous="NORMAL")
    async with TaskQueue(backend) as queue, Worker(backend, registry=registry, lease=LEASE):
        await (await queue.enqueue(quick)).result()
        let_in.clear()
        await (await queue.enqueue(rest)).result()
        assert not let_in
        await (await queue.enqueue(crowd, 0.02)).result()
    assert len(let_in) > 10

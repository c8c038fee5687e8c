"""What functions tell of their progress: written in bulk, and never in the way."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from sitq import (
    CurrentTask,
    Progress,
    Registry,
    Retry,
    SQLiteBackend,
    State,
    Task,
    TaskHandle,
    TaskQueue,
    Worker,
    current_task,
)
from sitq.errors import StoreUnavailable, StoreUnusable
from sitq.model import Note
from sitq.worker import telling

from .test_run import until

pytestmark = pytest.mark.anyio

registry = Registry()
go_on = threading.Event()
gates: list[anyio.Event] = []
kept: list[CurrentTask] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    go_on.clear()
    gates.clear()
    kept.clear()


@registry.task(name="waits")
async def waits(*amounts: float) -> None:
    """Tells of the amounts, and waits to be released."""
    gates.append(anyio.Event())
    for amount in amounts:
        current_task().progress(amount, 10, f"at {amount}")
    await gates[-1].wait()


@registry.task(name="sync")
def sync() -> None:
    """Tells from its thread, twice, and waits in between."""
    current_task().progress(1)
    assert go_on.wait(20)
    current_task().progress(2)


@registry.task(name="counts")
async def counts(number: int) -> None:
    """Tells of every step and ends."""
    kept.append(current_task())
    for step in range(1, number + 1):
        current_task().progress(step, number)
        if step % 100 == 0:
            await checkpoint()


@registry.task(name="tells_once", retry=Retry(attempts=2, base=0))
async def tells_once() -> None:
    """Tells at its first attempt only, and fails at that."""
    if current_task().attempt == 1:
        current_task().progress(5, note="first attempt")
        raise ValueError
    gates.append(anyio.Event())
    await gates[-1].wait()


@registry.task(name="silent")
async def silent() -> None:
    """Has nothing to tell."""


def worker(backend: SQLiteBackend, **options: object) -> Worker:
    return Worker(backend, registry=registry, poll_interval=0.2, **options)  # type: ignore[arg-type]


async def until_told(handle: TaskHandle[object], done: float) -> Progress:
    """What a task has told, once that is so much."""
    with anyio.fail_after(20):
        while (progress := (await known(handle)).progress) is None or progress.done != done:
            await anyio.sleep(0.01)
    return progress


async def known(handle: TaskHandle[object]) -> Task:
    task = await handle.get()
    assert task is not None
    return task


class Spy:
    """Between a worker and its store: sees what is told, and can refuse it.

    Args:
        refuse: called with the number of the call, from 1.
    """

    def __init__(self, backend: SQLiteBackend, refuse: Callable[[int], object] | None = None):
        self.calls: list[list[Note]] = []
        self._progress = backend.progress
        self._refuse = refuse
        backend.progress = self.progress  # type: ignore[method-assign]

    async def progress(self, worker: int, notes: Sequence[Note]) -> None:
        self.calls.append(list(notes))
        if self._refuse is not None:
            self._refuse(len(self.calls))
        await self._progress(worker, notes)


async def test_it_is_seen_while_the_task_runs(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        before = await backend.now()
        handle = await queue.enqueue(waits, 1, 2.5)
        progress = await until_told(handle, 2.5)
        assert (progress.total, progress.note) == (10.0, "at 2.5")
        assert before - 1 < progress.at.timestamp() <= await backend.now() + 1
        gates[0].set()
        await handle.result(20)
    assert (await known(handle)).progress == progress


async def test_a_sync_function_tells_from_its_thread(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        handle = await queue.enqueue(sync)
        assert await until_told(handle, 1) is not None
        go_on.set()
        await handle.result(20)
        assert (await known(handle)).progress is not None
    progress = (await known(handle)).progress
    assert progress is not None
    assert (progress.done, progress.total, progress.note) == (2.0, None, "")


async def test_the_last_is_written_before_the_end_is(
    backend: SQLiteBackend, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "SPACING", 3_600)
    spy = Spy(backend)
    async with worker(backend):
        first = await queue.enqueue(counts, 1_000)
        await first.result(20)
        second = await queue.enqueue(counts, 7)
        await second.result(20)
        for handle, done in ((first, 1_000), (second, 7)):
            progress = (await known(handle)).progress
            assert progress is not None
            assert progress.done == progress.total == done
    assert len(spy.calls) <= 4  # an hour passes between two writes, but for the last of a run


async def test_all_runs_are_written_together(
    backend: SQLiteBackend, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "SPACING", 0.05)
    spy = Spy(backend)
    async with worker(backend, max_concurrency=50):
        handles = await queue.enqueue_many([waits.call(3) for _ in range(50)])
        for handle in handles:
            await until_told(handle, 3)
        for gate in gates:
            gate.set()
        for handle in handles:
            await handle.result(20)
    assert len({note.seq for call in spy.calls for note in call}) == 50
    assert len(spy.calls) < 50


async def test_who_has_nothing_to_tell_writes_nothing(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    spy = Spy(backend)
    async with worker(backend):
        await (await queue.enqueue(silent)).result(20)
    assert spy.calls == []


async def test_it_stays_while_a_retry_has_told_nothing(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        handle = await queue.enqueue(tells_once)
        await until(lambda: bool(gates))
        task = await known(handle)
        assert task.progress is not None
        assert (task.state, task.attempts) == (State.RUNNING, 1)
        assert task.progress.note == "first attempt"
        gates[0].set()
        await handle.result(20)


async def test_it_stays_when_the_worker_stops(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend, grace=0):
        handle = await queue.enqueue(waits, 4)
        await until(lambda: bool(gates))
    task = await known(handle)
    assert task.state is State.PENDING
    assert task.progress is not None
    assert task.progress.done == 4


async def test_an_outage_delays_it(
    backend: SQLiteBackend,
    queue: TaskQueue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(telling, "SPACING", 0.01)

    def refuse(call: int) -> None:
        if call <= 3:
            raise StoreUnavailable("gone for a moment")

    spy = Spy(backend, refuse)
    with caplog.at_level(logging.WARNING, "sitq.worker"):
        async with worker(backend):
            handle = await queue.enqueue(waits, 6)
            await until_told(handle, 6)
            gates[0].set()
            await handle.result(20)
    assert spy.calls[:4] == [spy.calls[0]] * 4
    warned = [r.getMessage() for r in caplog.records if "progress" in r.getMessage()]
    assert len(warned) == 1
    assert "gone for a moment" in warned[0]


@pytest.mark.parametrize("error", [StoreUnavailable, StoreUnusable, ValueError])
async def test_it_never_hinders_the_end(
    backend: SQLiteBackend,
    queue: TaskQueue,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    # Only a settle writes. The package has a function by the name of the module.
    monkeypatch.setattr(sys.modules["sitq.worker.serve"], "tell", nothing)

    def refuse(call: int) -> None:
        raise error(f"call {call}")

    spy = Spy(backend, refuse)
    async with worker(backend):
        handle = await queue.enqueue(counts, 3)
        await handle.result(20)
    assert [note.done for [note] in spy.calls] == [3.0]
    assert (await known(handle)).progress is None


async def nothing(shift: object) -> None:
    """Writes nothing."""


async def test_a_store_that_does_not_answer_delays_the_end_for_a_moment(
    backend: SQLiteBackend,
    queue: TaskQueue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(telling, "LAST_LIMIT", 0.05)
    asked: list[int] = []

    async def hangs(worker: int, notes: Sequence[Note]) -> None:
        asked.append(len(notes))
        await anyio.sleep_forever()

    backend.progress = hangs  # type: ignore[method-assign]
    async with worker(backend):
        handle = await queue.enqueue(counts, 3)
        await handle.result(20)
    assert asked == [1, 1]  # at once, and at the end
    assert "no answer in 0.05 s" in caplog.text


async def test_what_is_no_note_does_not_end_the_worker(
    backend: SQLiteBackend, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as text that the database has no letters for."""
    monkeypatch.setattr(telling, "SPACING", 0.01)

    def refuse(call: int) -> None:
        if call == 1:
            raise ValueError("no such letter")

    spy = Spy(backend, refuse)
    async with worker(backend):
        first = await queue.enqueue(waits, 1)
        await until(lambda: len(spy.calls) == 1)
        second = await queue.enqueue(waits, 2)
        await until_told(second, 2)
        for gate in gates:
            gate.set()
        await first.result(20)
    assert (await known(first)).progress is None


async def test_who_tells_after_the_end_changes_nothing(
    backend: SQLiteBackend, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "SPACING", 0.01)
    async with worker(backend):
        first = await queue.enqueue(counts, 1)
        await first.result(20)
        kept[0].progress(99)
        await to_thread.run_sync(kept[0].progress, 100)
        second = await queue.enqueue(waits, 1)
        await until_told(second, 1)
        gates[0].set()
        await second.result(20)
    kept[0].progress(101)
    progress = (await known(first)).progress
    assert progress is not None
    assert progress.done == 1

"""What becomes of one run: values, failures, retries, timeouts, cancellation, rude functions."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from sitq import (
    Registry,
    Retry,
    SQLiteBackend,
    State,
    TaskFunction,
    TaskQueue,
    Worker,
    current_task,
    lifecycle,
)
from sitq.errors import TaskCancelled, TaskFailed, UsageError

from . import functions as f

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]

KINDS = ["value", "group", "base_group", "broken", "exit", "interrupt", "cyclic", "huge"]


@pytest.fixture(autouse=True)
def _clean() -> None:
    f.noted.clear()
    f.gate.clear()


def worker(backend: SQLiteBackend, **options: object) -> Worker:
    return Worker(backend, registry=f.registry, poll_interval=0.2, **options)  # type: ignore[arg-type]


async def test_values_come_home(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        assert await (await queue.enqueue(f.echo, [1, ("a", {2})])).result(5) == [1, ("a", {2})]
        assert await (await queue.enqueue(f.add, 2, b=3)).result(5) == 5
        big = "x" * 50_000
        assert await (await queue.enqueue(f.echo, big)).result(5) == big
    counts = await queue.counts()
    assert counts == {**dict.fromkeys(State, 0), State.SUCCEEDED: 3}


async def test_a_failure_is_retried_and_then_final(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        handle = await queue.enqueue(f.fail, "boom")
        with pytest.raises(TaskFailed, match="boom") as caught:
            await handle.result(5)
    assert f.noted == ["boom"] * 3
    result = caught.value.result
    assert (result.state, result.attempts, result.value) == (State.FAILED, 3, None)
    assert result.error is not None
    assert result.error.type == "builtins.ValueError"
    assert "functions.py" in result.error.traceback


async def test_a_retry_can_succeed(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        assert await (await queue.enqueue(f.fail_once)).result(5) == 2


async def test_a_call_carries_its_own_policy(backend: SQLiteBackend, queue: TaskQueue) -> None:
    once = f.fail.using(retry=Retry(attempts=1))
    given_up = f.fail.using(retry=Retry(attempts=9, base=0, give_up_on=[ValueError]))
    async with worker(backend):
        for function in (once, given_up):
            with pytest.raises(TaskFailed):
                await (await queue.enqueue(function, "x")).result(5)
    assert f.noted == ["x", "x"]


async def test_timeouts_are_recorded_as_such(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        for function in (f.slow, f.stubborn):
            with pytest.raises(TaskFailed, match="TaskTimedOut"):
                await (await queue.enqueue(function)).result(5)
        with pytest.raises(TaskFailed, match="mine") as caught:
            await (await queue.enqueue(f.own_timeout)).result(5)
        with pytest.raises(TaskFailed, match="TaskTimedOut"):
            await (await queue.enqueue(f.sleep.using(timeout=0.02), 30)).result(5)
    assert caught.value.result.error is not None
    assert caught.value.result.error.type == "builtins.TimeoutError"


async def test_a_deadline_ends_a_run_without_retry(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.1)
    patient = f.sleep.using(deadline=soon, retry=Retry(attempts=5, base=0), timeout=20)
    async with worker(backend):
        with pytest.raises(TaskFailed, match="DeadlinePassed"):
            await (await queue.enqueue(patient, 30)).result(5)
    assert f.noted == ["started", "cancelled"]


async def test_a_deadline_that_passed_before_the_start(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    late = f.note.using(deadline=datetime.now(UTC) - timedelta(seconds=1))
    handle = await queue.enqueue(late, 1)
    async with worker(backend, lease=0.3):
        with pytest.raises(TaskFailed, match="DeadlinePassed"):
            await handle.result(5)
    assert f.noted == []


@pytest.mark.parametrize("function", [f.raise_it, f.raise_it_in_thread], ids=["async", "thread"])
async def test_whatever_is_raised_hurts_nobody_else(
    backend: SQLiteBackend, queue: TaskQueue, function: TaskFunction[[str], None]
) -> None:
    async with worker(backend):
        neighbour = await queue.enqueue(f.sleep, 0.1)
        handles = {kind: await queue.enqueue(function, kind) for kind in KINDS}
        for kind, handle in handles.items():
            with pytest.raises(TaskFailed) as caught:
                await handle.result(5)
            error = caught.value.result.error
            assert error is not None, kind
            assert len(error.message) < 10_000, kind
        assert await neighbour.result(5) == "slept"
        assert await (await queue.enqueue(f.echo, 1)).result(5) == 1
    assert f.noted == ["started"], "the neighbour was run again"


async def test_a_stray_cancellation_is_a_failure(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        neighbour = await queue.enqueue(f.sleep, 0.1)
        with pytest.raises(TaskFailed):
            await (await queue.enqueue(f.stray)).result(5)
        assert await neighbour.result(5) == "slept"


async def test_a_result_that_cannot_be_stored(backend: SQLiteBackend, queue: TaskQueue) -> None:
    function = f.socket.using(retry=Retry(attempts=5, base=0))
    async with worker(backend):
        with pytest.raises(TaskFailed, match="NotSerializable"):
            await (await queue.enqueue(function)).result(5)
    assert f.noted == ["ran"]


async def test_a_running_task_is_cancelled(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        handle = await queue.enqueue(f.sleep, 30)
        await until(lambda: f.noted == ["started"])
        assert await handle.cancel()
        with pytest.raises(TaskCancelled):
            await handle.result(5)
        assert not await handle.cancel()
    assert f.noted == ["started", "cancelled"]
    assert await handle.status() is State.CANCELLED


async def test_a_sync_task_can_ask(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        handle = await queue.enqueue(f.waits_for_cancel)
        await until(lambda: f.noted == ["started"])
        await handle.cancel()
        with pytest.raises(TaskCancelled):
            await handle.result(5)


async def test_a_value_wins_over_a_cancellation(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        handle = await queue.enqueue(f.returns_anyway)
        await until(lambda: f.noted == ["started"])
        await handle.cancel()
        assert await handle.result(5) == "done all the same"


async def test_a_pending_task_is_cancelled_and_retried(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    handle = await queue.enqueue(f.note, 1)
    assert await handle.cancel()
    async with worker(backend):
        with pytest.raises(TaskCancelled):
            await handle.result(5)
        assert f.noted == []
        await queue.retry(handle)
        await handle.result(5)
    assert f.noted == [1]


async def test_current_task(backend: SQLiteBackend, queue: TaskQueue) -> None:
    deadline = datetime.now(UTC) + timedelta(hours=1)
    async with worker(backend):
        for function in (f.context, f.sync_context):
            handle = await queue.enqueue(function.using(queue="io", deadline=deadline))
            seen = await handle.result(5)
            stored = await handle.get()
            assert stored is not None
            assert seen == {
                "id": handle.id,
                "name": function.name,
                "queue": "io",
                "attempt": 1,
                "deadline": deadline,
                "enqueued_at": stored.enqueued_at,
                "cancelled": False,
            }
    with pytest.raises(UsageError):
        current_task()


async def test_the_scope_tells_the_deadline(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        assert 4 < await (await queue.enqueue(f.effective_deadline)).result(5) <= 5


async def test_an_unknown_function_waits_for_a_worker_that_knows_it(
    backend: SQLiteBackend,
    queue: TaskQueue,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycle, "UNKNOWN_BACKOFF", (0.2, 60.0))
    handles = [await queue.enqueue(f.echo, number) for number in range(5)]
    known = await queue.enqueue(f.add, 1)
    ignorant = Registry()
    ignorant.task(name="add")(f.add.function)
    async with Worker(backend, registry=ignorant, poll_interval=0.05):
        assert await known.result(5) == 2
        await until_async(lambda: _all_pending(queue))
    warnings = [record for record in caplog.records if "unknown task function" in record.message]
    assert len(warnings) == 1
    async with worker(backend):
        assert [await handle.result(10) for handle in handles] == list(range(5))


async def test_an_unknown_function_fails_in_the_end(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    handle = await queue.enqueue(f.echo, 1)
    async with Worker(backend, registry=Registry(), lease=0.3, unknown_after=0.1):
        with pytest.raises(TaskFailed, match="UnknownTask"):
            await handle.result(10)


BREAKS_OUT = """
import sys, anyio
sys.path.append(sys.argv[2])
from tests.worker import functions as f
from sitq import SQLiteBackend, TaskQueue, Worker

async def main():
    async with SQLiteBackend(":memory:") as backend:
        queue = TaskQueue(backend)
        async with Worker(backend, registry=f.registry, poll_interval=0.2):
            neighbour = await queue.enqueue(f.sleep, 0.2)
            handle = await queue.enqueue(f.breaks_out)
            result = await queue.get_result(handle, 5)
            print(result.state, await neighbour.result(5))
            print(await (await queue.enqueue(f.echo, "alive")).result(5))

anyio.run(main, backend=sys.argv[1])
"""


def test_a_broken_scope_stack_does_not_end_the_worker(anyio_backend: str) -> None:
    # In a process of its own: the generator that was left complains when it is collected.
    command = [sys.executable, "-P", "-c", BREAKS_OUT, anyio_backend, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines() == ["failed slept", "alive"], done.stderr
    assert "task group broke" in done.stderr


async def _all_pending(queue: TaskQueue) -> bool:
    counts = await queue.counts()
    return counts[State.PENDING] == 5 and counts[State.RUNNING] == 0


async def until(condition: object) -> None:
    with anyio.fail_after(5):
        while not condition():  # type: ignore[operator]
            await anyio.sleep(0.005)


async def until_async(condition: object) -> None:
    with anyio.fail_after(5):
        while not await condition():  # type: ignore[operator]
            await anyio.sleep(0.005)

"""The rules of a nursery, one by one; docs/explanation/structured-concurrency.md has a table."""

from __future__ import annotations

import anyio
import pytest

from sitq import SQLiteBackend, State, TaskQueue
from sitq.errors import TaskCancelled, TaskFailed, UsageError

from . import functions as f
from .conftest import until, worker

pytestmark = pytest.mark.anyio


async def test_all_failures_are_in_the_group(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend, max_concurrency=2):
        with pytest.raises(ExceptionGroup) as caught:
            async with queue.task_group() as tg:
                await tg.enqueue_many([f.fail_together.call(n) for n in range(2)])
                await anyio.sleep(60)
    errors = caught.value.exceptions
    assert {type(error) for error in errors} == {TaskFailed}
    infos = [error.result.error for error in errors if isinstance(error, TaskFailed)]
    assert {info.message for info in infos if info} == {"0", "1"}


async def test_what_the_body_raises_stands_beside_it(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        with pytest.raises(ExceptionGroup) as caught:
            async with queue.task_group() as tg:
                await tg.enqueue(f.fail, "boom")
                try:
                    await anyio.sleep(60)
                finally:
                    raise KeyError("mine")
    assert {type(error) for error in caught.value.exceptions} == {KeyError, TaskFailed}


async def test_catching_the_error_of_a_child_does_not_save_the_block(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    reached = False
    async with worker(backend):
        with pytest.raises(ExceptionGroup) as caught:
            async with queue.task_group() as tg:
                handle = await tg.enqueue(f.fail, "boom")
                with pytest.raises(TaskFailed):
                    await handle.result()
                await anyio.sleep(60)
                reached = True
    assert not reached
    assert [type(error) for error in caught.value.exceptions] == [TaskFailed]


async def test_except_star_takes_them_apart(backend: SQLiteBackend, queue: TaskQueue) -> None:
    messages: list[str] = []
    async with worker(backend):
        try:
            async with queue.task_group() as tg:
                await tg.enqueue(f.fail, "boom")
        except* TaskFailed as failures:
            messages = [str(failure) for failure in failures.exceptions]
    assert len(messages) == 1
    assert "boom" in messages[0]


async def test_cancel_ends_the_children_and_the_body_quietly(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    reached = False
    async with worker(backend):
        async with queue.task_group() as tg:
            handle = await tg.enqueue(f.sleep)
            await until(lambda: f.noted == ["started"])
            await tg.cancel()
            late = await tg.enqueue(f.echo, "late")
            assert await late.status() is State.CANCELLED
            await anyio.sleep(60)
            reached = True
        assert await handle.status() is State.CANCELLED
    assert not reached
    assert f.noted == ["started", "cancelled"]


async def test_a_child_that_is_cancelled_alone_is_no_error(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        async with queue.task_group() as tg:
            sleeper = await tg.enqueue(f.sleep)
            other = await tg.enqueue(f.echo, 1)
            await sleeper.cancel()
            with pytest.raises(TaskCancelled):
                await sleeper.result()
        assert await other.result() == 1


async def test_a_child_may_finish_what_it_is_doing(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    """Cancellation is a request: the block waits for the answer."""
    async with worker(backend):
        with pytest.raises(ExceptionGroup):
            async with queue.task_group() as tg:
                stubborn = await tg.enqueue(f.stubborn)
                await until(lambda: f.noted == ["started"])
                await tg.enqueue(f.fail, "boom")
        assert f.noted == ["started", "finished"]
        assert await stubborn.result() == "finished"


async def test_a_deadline_around_the_block_ends_the_children(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend, lease=0.6):
        with anyio.move_on_after(0.3) as scope:
            async with queue.task_group() as tg:
                sleeper = await tg.enqueue(f.sleep)
                waits = await tg.enqueue(f.sleep.using(delay=3600))
                await anyio.sleep(60)
        assert scope.cancelled_caught
        assert await sleeper.status() in (State.CANCELLED, State.FAILED)
        assert await waits.status() in (State.CANCELLED, State.FAILED)


async def test_a_wait_in_the_block_can_be_given_up(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend), queue.task_group() as tg:
        handle = await tg.enqueue(f.sleep, 0.2)
        with pytest.raises(TimeoutError):
            await handle.result(timeout=0)
        assert await handle.result() == "slept"


async def test_children_can_be_added_until_the_block_ends(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        async with queue.task_group() as tg, anyio.create_task_group() as local:
            for number in range(5):
                local.start_soon(tg.enqueue, f.echo, number)
        assert sorted(f.noted) == [*range(5)]


async def test_groups_stand_in_groups(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        with pytest.raises(ExceptionGroup) as caught:
            async with queue.task_group() as outer:
                sleeper = await outer.enqueue(f.sleep)
                async with queue.task_group() as inner:
                    await inner.enqueue(f.fail, "boom")
        [error] = caught.value.exceptions
        assert isinstance(error, ExceptionGroup)
        assert [type(one) for one in error.exceptions] == [TaskFailed]
        assert await sleeper.status() is State.CANCELLED


async def test_a_group_that_waits_for_no_worker_can_be_cancelled(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    with anyio.move_on_after(0.1) as scope:
        async with queue.task_group() as tg:
            handle = await tg.enqueue(f.echo, 1)
    assert scope.cancelled_caught
    assert await handle.status() is State.CANCELLED


async def test_a_child_that_will_not_end_is_ended_after_a_while(
    backend: SQLiteBackend, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sitq.group.CANCEL_LIMIT", 0.1)
    async with worker(backend):
        with anyio.CancelScope() as scope:
            async with queue.task_group() as tg:
                stubborn = await tg.enqueue(f.stubborn, 1.0)
                await until(lambda: f.noted == ["started"])
                scope.cancel()
        assert f.noted == ["started"]  # its code goes on for a while
        assert await stubborn.status() is State.CANCELLED
        await until(lambda: f.noted == ["started", "finished"])
    assert await stubborn.status() is State.CANCELLED


async def test_a_nursery_in_the_body_may_add_an_error_to_the_cancellation(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async def late() -> None:
        try:
            await anyio.sleep(60)
        finally:
            raise RuntimeError("at its end")

    async with worker(backend):
        with pytest.raises(ExceptionGroup) as caught:
            async with queue.task_group() as tg:
                sleeper = await tg.enqueue(f.sleep)
                async with anyio.create_task_group() as local:
                    local.start_soon(late)
                    local.start_soon(anyio.sleep, 60)
                    await tg.enqueue(f.fail, "boom")
        assert caught.value.subgroup(RuntimeError) is not None
        assert caught.value.subgroup(TaskFailed) is not None
        assert await sleeper.status() is State.CANCELLED


async def test_nothing_is_enqueued_when_all_have_ended(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    """From the last look at the children on, though the block may wait for a slot then."""
    async with worker(backend), queue.task_group() as tg:
        await (await tg.enqueue(f.echo, "first")).result()
        tg._joined.set()
        with pytest.raises(UsageError, match="inside its block"):
            await tg.enqueue(f.echo, "late")


class Interrupted:
    """An event whose wait is interrupted from the keyboard, once."""

    def __init__(self, event: anyio.Event) -> None:
        self._event = event
        self._is_new = True
        self.is_set = event.is_set
        self.set = event.set

    async def wait(self) -> None:
        if self._is_new:
            self._is_new = False
            raise KeyboardInterrupt
        await self._event.wait()


async def test_ctrl_c_while_the_block_joins(backend: SQLiteBackend, queue: TaskQueue) -> None:
    async with worker(backend):
        with pytest.raises(BaseExceptionGroup) as caught:
            async with queue.task_group() as tg:
                sleeper = await tg.enqueue(f.sleep)
                await until(lambda: f.noted == ["started"])
                tg._joined = Interrupted(tg._joined)  # type: ignore[assignment]
        assert [type(error) for error in caught.value.exceptions] == [KeyboardInterrupt]
        assert await sleeper.status() is State.CANCELLED
        assert [row for row in await backend.workers() if row.queues == ()] == []

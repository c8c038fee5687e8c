"""A parent that runs again finds its children: after a stop, a lost lease, a retry."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from sitq import SQLiteBackend, State, TaskQueue
from sitq.errors import TaskFailed

from . import functions as f
from .conftest import until, worker

pytestmark = pytest.mark.anyio


async def test_a_stop_leaves_the_children_alone(backend: SQLiteBackend, queue: TaskQueue) -> None:
    parents = worker(backend, queues=["parents"], grace=60)
    async with worker(backend, queues=["default"]):
        handle = await queue.enqueue(f.parent.using(queue="parents"), "a")
        async with parents:
            await until(lambda: "a started" in f.noted)
            with anyio.fail_after(10):  # it only waits, so it goes back without its grace
                await parents.stop()
        assert await handle.status() is State.PENDING
        assert f.noted.count("parent started") == 1
        async with worker(backend, queues=["parents"]):
            await until(lambda: f.noted.count("parent waits") == 2)
            f.told.add("a")
            assert await handle.result(10) == "a"
    assert f.noted.count("a started") == 1
    task = await handle.get()
    assert task is not None
    assert (task.attempts, task.crashes) == (0, 0)


async def test_a_child_that_ended_meanwhile_is_found(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend, queues=["default"]):
        handle = await queue.enqueue(f.parent.using(queue="parents"), "a")
        async with worker(backend, queues=["parents"]):
            await until(lambda: "a started" in f.noted)
        f.told.add("a")
        await until(lambda: "a ended" in f.noted)
        async with worker(backend, queues=["parents"]):
            assert await handle.result(10) == "a"
    assert f.noted.count("a started") == 1


async def test_another_call_in_its_place_is_refused(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    handle = await queue.enqueue(f.changeable)
    async with worker(backend, grace=0):
        await until(lambda: "open" in f.noted)
    async with worker(backend, grace=0):
        with pytest.raises(TaskFailed) as caught:
            await handle.result(10)
    error = caught.value.result.error
    assert error is not None
    assert error.members[0].type == "sitq.errors.ReplayMismatch"
    tree = await queue.tree(handle)
    assert tree is not None
    assert [child.task.state for child in tree.children] == [State.CANCELLED]


async def test_a_new_attempt_keeps_what_succeeded_and_replaces_the_rest(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        handle = await queue.enqueue(f.fails_below)
        assert await handle.result(10) == "kept"
    assert f.noted == ["kept", "second"]
    tree = await queue.tree(handle)
    assert tree is not None
    states = [child.task.state for child in tree.children]
    assert states == [State.SUCCEEDED, State.FAILED, State.SUCCEEDED]


async def test_a_failed_child_is_enqueued_anew_in_a_new_attempt(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        handle = await queue.enqueue(f.retried)
        assert await handle.result(10) == "second try"
    assert f.noted == ["tried", "tried"]


async def test_what_a_child_raised_decides_about_a_retry(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        handle = await queue.enqueue(f.retries_on_key_error, "builtins.ValueError")
        with pytest.raises(TaskFailed):
            await handle.result(10)
        assert (await handle.get()).attempts == 1  # type: ignore[union-attr]
        handle = await queue.enqueue(f.retries_on_key_error, "builtins.KeyError")
        with pytest.raises(TaskFailed):
            await handle.result(10)
        assert (await handle.get()).attempts == 2  # type: ignore[union-attr]


async def test_an_error_comes_up_from_the_bottom_of_a_tree(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    async with worker(backend):
        handle = await queue.enqueue(f.deep, 2)
        with pytest.raises(TaskFailed) as caught:
            await handle.result(10)
        error = caught.value.result.error
        for _ in range(2):
            assert error is not None
            assert error.type == "builtins.ExceptionGroup"
            [member] = error.members
            assert member.type == "sitq.errors.TaskFailed"
            error = member.cause
        assert error is not None
        assert error.type == "builtins.ValueError"
        assert "in deep" in error.traceback
        task = await handle.get()
        assert task is not None
        assert task.attempts == 2  # `retry_on` knows what was raised far below


async def test_a_worker_that_lost_its_lease_leaves_the_children_alone(
    tmp_path: Path,
) -> None:
    async with SQLiteBackend(tmp_path / "lost.db", synchronous="NORMAL") as backend:
        queue = TaskQueue(backend)
        f.queues[:] = [queue]
        async with worker(backend, queues=["default"]):
            handle = await queue.enqueue(f.parent.using(queue="parents"), "a")
            async with worker(backend, queues=["parents"]) as parents:
                await until(lambda: "a started" in f.noted)
                shift = parents._shift
                assert shift is not None
                await backend._write(
                    lambda c: (
                        c.execute(
                            "UPDATE sitq_task SET state = 0, worker = NULL WHERE worker = ?",
                            (shift.worker,),
                        ),
                        c.execute("DELETE FROM sitq_worker WHERE id = ?", (shift.worker,)),
                    )
                )
                shift.lose_lease()
                await until(lambda: f.noted.count("parent waits") == 2)
                f.told.add("a")
                assert await handle.result(10) == "a"
        assert f.noted.count("a started") == 1


async def test_what_a_run_cancelled_that_did_not_come_home_is_enqueued_anew(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    """Its body raised; it waited for a child that ran on; then its worker stopped."""
    async with worker(backend, queues=["default"]):
        handle = await queue.enqueue(f.raises_first.using(queue="parents"))
        async with worker(backend, queues=["parents"]):
            await until(lambda: "raising" in f.noted)
            await anyio.sleep(0.2)
        f.told.add("second")
        async with worker(backend, queues=["parents"]):
            assert await handle.result(20) == ["finished", "late"]
    tree = await queue.tree(handle)
    assert tree is not None
    assert State.CANCELLED in [child.task.state for child in tree.children]


async def test_a_child_that_was_revived_counts_again(
    backend: SQLiteBackend, queue: TaskQueue
) -> None:
    """It failed, its parent is to run again, somebody revives it, and it fails again."""
    f.told.add("fail")
    handle = await queue.enqueue(f.fails_slowly)
    async with worker(backend):
        with anyio.fail_after(10):
            while (await handle.get()).attempts == 0:  # type: ignore[union-attr]
                await anyio.sleep(0.01)
        f.told.clear()
        tree = await queue.tree(handle)
        assert tree is not None
        await queue.retry(tree.children[0].task.id)
        await until(lambda: f.noted.count("open") == 2)
        f.told.add("fail")
        with pytest.raises(TaskFailed):
            await handle.result(20)

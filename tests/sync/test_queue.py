"""The methods of a sync queue, its opening and closing, and threads that share it."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from sitq import Registry, SQLiteBackend, State, SyncTaskQueue, TaskHandle, TaskQueue
from sitq.errors import (
    InvalidArguments,
    InvalidOption,
    NotOpen,
    NotRegistered,
    NotSerializable,
    StoreUnusable,
    TaskCancelled,
    TaskFailed,
    TaskNotFound,
    UsageError,
    WrongState,
)
from sitq.serialization import MsgpackSerializer
from sitq.sync import SyncTaskHandle

from . import functions as f
from .conftest import Working


def test_a_task_from_end_to_end(queue: SyncTaskQueue, working: Working) -> None:
    handle = queue.enqueue(f.echo, [1, "two"])
    with pytest.raises(TimeoutError):
        handle.result(timeout=0.01)
    assert handle.status() is State.PENDING
    assert queue.get_result(handle) is None
    with working():
        assert handle.result(timeout=20) == [1, "two"]
    assert handle.status() is State.SUCCEEDED
    result = queue.get_result(handle.id)
    assert result is not None
    assert result.value == [1, "two"]
    assert queue.arguments(handle) == (([1, "two"],), {})


def test_what_is_told_of_tasks(queue: SyncTaskQueue, working: Working) -> None:
    first, second = queue.enqueue_many([f.echo.call(n) for n in range(2)])
    third = queue.enqueue(f.fail.using(queue="other", key="k"), "no")
    tasks = queue.find()
    assert [task.id for task in tasks] == [first.id, second.id, third.id]
    assert [task.id for task in queue.find(after=tasks[0], limit=1)] == [second.id]
    assert [task.id for task in queue.find(state="pending", name="fail", key="k")] == [third.id]
    assert queue.get(second) == tasks[1] == second.get()
    assert queue.counts()[State.PENDING] == 3
    assert queue.counts("other")[State.PENDING] == 1
    assert queue.queues() == ["default", "other"]
    assert queue.workers() == []
    tree = queue.tree(first)
    assert tree is not None
    assert (tree.task, tree.children) == (tasks[0], ())
    with working():
        assert len(queue.workers()) == 1
        with pytest.raises(TaskFailed, match="no"):
            third.result(20)
        assert first.result(20) == 0
        assert second.result(20) == 1
    with pytest.raises(WrongState):
        queue.retry(first)
    queue.retry(third)
    assert third.status() is State.PENDING
    assert queue.cancel(third)
    assert not third.cancel()
    with pytest.raises(TaskCancelled):
        third.result()
    assert queue.purge(state="succeeded") == 2
    assert queue.get(first) is None
    with pytest.raises(TaskNotFound):
        first.status()


def test_a_task_is_watched(queue: SyncTaskQueue, working: Working) -> None:
    handle = queue.enqueue(f.echo, 1)
    seen = handle.watch(interval=0.05)
    assert next(seen).state is State.PENDING
    with working():
        assert [task.state for task in seen][-1] is State.SUCCEEDED
    assert [*seen] == []
    with pytest.raises(InvalidOption, match="interval"):
        handle.watch(interval=0)
    with pytest.raises(TaskNotFound):
        next(queue.handle(uuid4()).watch())


def test_a_task_is_named_by_its_handle_or_id(queue: SyncTaskQueue) -> None:
    handle = queue.enqueue(f.echo, 1)
    same = queue.handle(str(handle.id))
    other = queue.enqueue(f.echo, 1)
    assert same == handle != other
    assert len({same, handle, other}) == 2
    assert str(handle.id) in repr(handle)
    plain = TaskHandle[Any](handle.id.bytes, None, None)  # type: ignore[arg-type]
    assert hash(plain) == hash(handle)
    assert {queue.get(name) for name in (handle, same, plain, handle.id, str(handle.id))} == {
        handle.get()
    }
    with pytest.raises(UsageError, match="handle or id"):
        queue.get("no id")
    assert queue.get(uuid4()) is None


@pytest.mark.parametrize("wrong", [3, None, Path("tasks.db"), "tasks.db", "mysql://"])
def test_a_backend_is_named_by_a_url_or_is_one(wrong: Any) -> None:
    with pytest.raises(InvalidOption):
        SyncTaskQueue(wrong)


def test_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="'asyncio' or 'trio': 'curio'"):
        SyncTaskQueue("sqlite://", loop="curio")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="serializer"):
        SyncTaskQueue("sqlite://", serializer=3)  # type: ignore[arg-type]
    queue = SyncTaskQueue(f"sqlite:///{tmp_path}/missing/tasks.db")
    for _ in range(2):  # tried anew each time
        with pytest.raises(StoreUnusable, match="no such folder"):
            queue.counts()
    (tmp_path / "missing").mkdir()
    assert queue.counts()[State.PENDING] == 0


def test_what_cannot_be_enqueued(file_queue: SyncTaskQueue) -> None:
    queue = file_queue
    with pytest.raises(InvalidArguments):
        queue.enqueue(f.echo)  # type: ignore[call-arg]
    with pytest.raises(NotRegistered):
        queue.enqueue(len, [])  # type: ignore[arg-type]
    with pytest.raises(NotSerializable):
        queue.enqueue(f.echo, object())
    with pytest.raises(InvalidOption, match="child"):
        queue.enqueue(f.echo.using(child="c"), 1)
    with pytest.raises(InvalidOption, match="calls such as"):
        queue.enqueue_many([f.echo])  # type: ignore[list-item]
    with pytest.raises(InvalidOption):
        queue.find(limit=0)
    assert queue.find() == []


@pytest.fixture
def file_queue(file_url: str, loop: str) -> Any:
    with SyncTaskQueue(file_url, loop=loop) as queue:  # type: ignore[arg-type]
        yield queue


def test_calls_are_made_in_the_callers_thread(file_queue: SyncTaskQueue) -> None:
    threads: set[threading.Thread] = set()

    def calls() -> Any:
        for n in range(3):
            threads.add(threading.current_thread())
            yield f.echo.call(n)

    assert len(file_queue.enqueue_many(calls())) == 3
    assert threads == {threading.current_thread()}


# Opening and closing.


def portals() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sitq-portal"]


def test_entering_is_counted(file_url: str, loop: str) -> None:
    queue = SyncTaskQueue(file_url, loop=loop)  # type: ignore[arg-type]
    assert portals() == []
    with queue as same:
        assert same is queue
        with queue:
            handle = queue.enqueue(f.echo, 1)
        assert handle.status() is State.PENDING
    for use in (queue.counts, handle.status, queue.task_group, lambda: queue.enqueue(f.echo, 2)):
        with pytest.raises(NotOpen, match="with queue"):
            use()
    assert portals() == []
    with queue:
        assert handle.status() is State.PENDING


def test_one_that_opened_itself_is_closed(file_url: str, loop: str) -> None:
    queue = SyncTaskQueue(file_url, loop=loop)  # type: ignore[arg-type]
    queue.counts()
    assert len(portals()) == 1
    with queue:
        queue.counts()
    with pytest.raises(NotOpen):
        queue.counts()
    with queue:
        queue.close()
        with pytest.raises(NotOpen):
            queue.counts()
    queue.close()
    assert portals() == []


def test_entering_fails_without_a_trace(tmp_path: Path, loop: str) -> None:
    queue = SyncTaskQueue(f"sqlite:///{tmp_path}/missing/tasks.db", loop=loop)  # type: ignore[arg-type]
    with pytest.raises(StoreUnusable), queue:
        pass
    (tmp_path / "missing").mkdir()
    queue.counts()
    with queue:
        pass
    with pytest.raises(NotOpen):
        queue.counts()


def test_one_that_is_dropped_leaves_no_thread(file_url: str, loop: str) -> None:
    queue = SyncTaskQueue(file_url, loop=loop)  # type: ignore[arg-type]
    handle = queue.enqueue(f.echo, 1)
    [thread] = portals()
    gone = weakref.ref(queue)
    del queue
    gc.collect()
    assert gone() is None
    assert handle.status() is State.PENDING  # a handle keeps what it needs
    del handle
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()


def test_who_waits_is_told_of_the_end(queue: SyncTaskQueue) -> None:
    handle = queue.enqueue(f.echo, 1)
    waiting = threading.Event()

    def wait() -> Any:
        waiting.set()
        return handle.result()

    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(wait) for _ in range(3)]
        waiting.wait(20)
        queue.close()
        for one in asked:
            with pytest.raises(NotOpen):
                one.result(20)


def test_a_backend_is_of_one_queue(tmp_path: Path, loop: str) -> None:
    backend = SQLiteBackend(tmp_path / "tasks.db")
    with SyncTaskQueue(backend, loop=loop) as queue:  # type: ignore[arg-type]
        queue.enqueue(f.echo, 1)
        with pytest.raises(NotOpen, match="another event loop"), SyncTaskQueue(backend):
            pass
    with SyncTaskQueue(backend, loop=loop) as queue:  # type: ignore[arg-type]
        assert len(queue.find()) == 1


# Threads.


def test_the_first_use_by_many_threads_opens_it_once(file_url: str, loop: str) -> None:
    queue = SyncTaskQueue(file_url, loop=loop)  # type: ignore[arg-type]
    together = threading.Barrier(8)

    def use(number: int) -> SyncTaskHandle[Any]:
        together.wait(20)
        return queue.enqueue(f.echo, number)

    with ThreadPoolExecutor(8) as pool:
        handles = [*pool.map(use, range(8))]
    assert len(portals()) == 1
    assert {task.id for task in queue.find()} == {handle.id for handle in handles}
    queue.close()


def test_many_threads_use_it_at_once(queue: SyncTaskQueue, working: Working) -> None:
    def use(number: int) -> Any:
        return queue.enqueue(f.echo, number).result(30)

    with working(max_concurrency=20), ThreadPoolExecutor(8) as pool:
        assert [*pool.map(use, range(40))] == [*range(40)]


def test_threads_come_and_go_while_it_is_closed(file_url: str, loop: str) -> None:
    queue = SyncTaskQueue(file_url, loop=loop)  # type: ignore[arg-type]
    is_over = threading.Event()

    def use() -> int:
        stored = 0
        while not is_over.is_set():
            try:
                queue.enqueue(f.echo, 1)
                stored += 1
            except NotOpen:
                pass
        return stored

    with ThreadPoolExecutor(4) as pool:
        users = [pool.submit(use) for _ in range(4)]
        for _ in range(4):
            with queue:
                queue.counts()
        is_over.set()
        stored = sum(user.result(20) for user in users)
    with queue:
        assert queue.counts()[State.PENDING] >= stored


# Where it cannot be used.


def test_what_its_own_loop_calls_is_refused(file_url: str, loop: str) -> None:
    class Meddling(MsgpackSerializer):
        def dumps(self, obj: Any) -> bytes:
            queue.counts()
            return super().dumps(obj)

    class Closing(MsgpackSerializer):
        def dumps(self, obj: Any) -> bytes:
            queue.close()
            return super().dumps(obj)

    for kind in (Meddling, Closing):
        with SyncTaskQueue(file_url, loop=loop, serializer=kind()) as queue:  # type: ignore[arg-type]
            with pytest.raises(NotSerializable) as caught:
                queue.enqueue(f.echo, 1)
            assert isinstance(caught.value.__cause__, UsageError)
            assert "its own event loop" in str(caught.value.__cause__)
            assert queue.find() == []


def test_where_an_event_loop_runs_it_waits_as_plain_code(
    queue: SyncTaskQueue, working: Working, loop: str
) -> None:
    import anyio

    async def cell() -> Any:
        with queue.task_group() as tg:
            handle = tg.enqueue(f.echo, 3)
        return handle.result(20)

    with working():
        for backend in ("asyncio", "trio"):
            assert anyio.run(cell, backend=backend) == 3


def test_a_retry_time_is_kept(file_queue: SyncTaskQueue) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    handle = file_queue.enqueue(f.echo.using(run_at=later), 1)
    task = handle.get()
    assert task is not None
    assert abs((task.run_at - later).total_seconds()) < 0.001


def test_it_has_all_of_a_task_queue() -> None:
    """What is added to one side is to be added to the other."""

    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(SyncTaskQueue) - {"close"} == public(TaskQueue)
    assert public(SyncTaskHandle) == public(TaskHandle)


def test_a_registry_of_its_own_is_nothing_special(file_queue: SyncTaskQueue) -> None:
    registry = Registry()
    made: Callable[..., Any] = registry.task(name="mine")(_mine)
    assert file_queue.enqueue(made).get().name == "mine"  # type: ignore[union-attr,arg-type]


def _mine() -> None: ...

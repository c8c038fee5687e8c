"""Groups and maps whose bodies are plain code."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sitq import State, SyncTaskQueue
from sitq.errors import InvalidOption, NotOpen, TaskCancelled, TaskFailed, UsageError
from sitq.sync import SyncTaskHandle

from . import functions as f
from .conftest import Working


def test_the_block_ends_when_its_tasks_have_ended(queue: SyncTaskQueue, working: Working) -> None:
    with working():
        with queue.task_group() as tg:
            handle = tg.enqueue(f.echo, 1)
            more = tg.enqueue_many([f.echo.call(n) for n in (2, 3)])
        assert {one.status() for one in (handle, *more)} == {State.SUCCEEDED}
        assert [one.result() for one in (handle, *more)] == [1, 2, 3]
        with queue.task_group():
            pass


def test_a_failure_cancels_the_others_and_the_next_wait_of_the_body(
    queue: SyncTaskQueue, working: Working
) -> None:
    told: list[BaseException] = []
    with working():
        with pytest.raises(ExceptionGroup) as caught, queue.task_group() as tg:
            sleeping = tg.enqueue(f.sleep)
            other = queue.enqueue(f.echo.using(delay=60), 1)
            tg.enqueue(f.fail, "for good")
            for wait in (other.result, lambda: tg.enqueue(f.echo, 2), sleeping.result):
                with pytest.raises(CancelledError, match="leave it") as refused:
                    wait()
                told.append(refused.value)
            raise told[-1]
        [failure] = caught.value.exceptions
        assert isinstance(failure, TaskFailed)
        assert "for good" in str(failure)
        assert sleeping.status() is State.CANCELLED
        assert other.status() is State.PENDING
        assert queue.enqueue(f.echo, 3).result(20) == 3


def test_a_body_that_notices_nothing_is_told_at_its_end(
    queue: SyncTaskQueue, working: Working
) -> None:
    with working():
        with pytest.raises(ExceptionGroup) as caught, queue.task_group() as tg:
            handle = tg.enqueue(f.fail, "no")
            with pytest.raises((TaskFailed, CancelledError)):
                handle.result()
        assert [type(error) for error in caught.value.exceptions] == [TaskFailed]


def test_an_error_of_the_body_cancels_the_tasks(queue: SyncTaskQueue, working: Working) -> None:
    with working():
        with pytest.raises(ExceptionGroup) as caught, queue.task_group() as tg:
            handle = tg.enqueue(f.sleep)
            assert f.gates["sleeping"].wait(20)
            raise LookupError("mine")
        [error] = caught.value.exceptions
        assert isinstance(error, LookupError)
        assert handle.status() is State.CANCELLED


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_a_program_cancels_the_tasks_and_comes_out_bare(
    queue: SyncTaskQueue, kind: type[BaseException]
) -> None:
    with pytest.raises(kind), queue.task_group() as tg:
        handle = tg.enqueue(f.echo, 1)
        raise kind
    assert handle.status() is State.CANCELLED


def test_a_generator_that_holds_a_block_can_be_closed(queue: SyncTaskQueue) -> None:
    def held() -> Iterator[Any]:
        with queue.task_group() as tg:
            yield tg.enqueue(f.echo, 1)

    generator = held()
    handle = next(generator)
    generator.close()
    assert handle.status() is State.CANCELLED


def test_a_generator_that_is_collected_by_the_thread_of_the_queue(queue: SyncTaskQueue) -> None:
    def results() -> Iterator[SyncTaskHandle[Any]]:
        with queue.task_group() as tg:
            yield tg.enqueue(f.sleep)

    def dropped() -> SyncTaskHandle[Any]:
        generator: Any = results()
        cycle = [generator]
        cycle.append(cycle)
        return next(generator)

    async def collect() -> None:
        gc.collect()

    gc.disable()
    try:
        handle = copy_context().run(dropped)
        queue._bridge.call(collect)
    finally:
        gc.enable()
    with pytest.raises(TaskCancelled):
        handle.result(timeout=10)


def test_a_group_can_be_cancelled(queue: SyncTaskQueue) -> None:
    with queue.task_group() as tg:
        handle = tg.enqueue(f.echo, 1)
        tg.cancel()
        handle.result()
    assert handle.status() is State.CANCELLED


def test_blocks_in_blocks_end_from_the_inside(queue: SyncTaskQueue, working: Working) -> None:
    seen: list[str] = []
    with working():
        with pytest.raises(ExceptionGroup) as caught, queue.task_group() as outer:
            with queue.task_group() as inner:
                handle = inner.enqueue(f.sleep)
                assert f.gates["sleeping"].wait(20)
                outer.enqueue(f.fail, "outside")
                handle.result()
            seen.append("after the inner block")
        assert [type(error) for error in caught.value.exceptions] == [TaskFailed]
        assert handle.status() is State.CANCELLED
    assert seen == []


def test_a_body_may_use_threads(queue: SyncTaskQueue, working: Working) -> None:
    with working(), queue.task_group() as tg, ThreadPoolExecutor(4) as pool:
        values = [*pool.map(lambda n: tg.enqueue(f.echo, n).result(20), range(8))]
    assert values == [*range(8)]


def test_as_completed(queue: SyncTaskQueue, working: Working) -> None:
    with working(max_concurrency=1), queue.task_group() as tg:
        handles = tg.enqueue_many([f.echo.call(n) for n in range(3)])
        done = [*tg.as_completed()]
    assert done == handles


def test_the_groups_of_a_program_are_no_workers(queue: SyncTaskQueue) -> None:
    with queue.task_group() as tg:
        assert queue.workers() == []
        tg.cancel()


def test_a_deadline(queue: SyncTaskQueue) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    with queue.task_group(deadline=soon) as tg:
        task = tg.enqueue(f.echo, 1).get()
        tg.cancel()
    assert task is not None
    assert task.deadline == soon
    with pytest.raises(InvalidOption, match="deadline"):
        queue.task_group(deadline=5.0)


def test_misuse(queue: SyncTaskQueue) -> None:
    group = queue.task_group()
    for use in (group.as_completed, group.cancel, lambda: group.enqueue(f.echo, 1)):
        with pytest.raises(UsageError, match="not open"):
            use()
    with group, pytest.raises(UsageError, match="entered once"):
        group.__enter__()
    for use in (group.as_completed, group.cancel, lambda: group.enqueue(f.echo, 1)):
        with pytest.raises(UsageError, match="not open"):
            use()
    with pytest.raises(UsageError, match="entered once"), group:
        pass


def test_a_queue_that_is_closed_cancels_the_groups_that_are_open(
    queue: SyncTaskQueue,
) -> None:
    with pytest.raises(NotOpen), queue.task_group() as tg:
        handle = tg.enqueue(f.echo, 1)
        queue.close()
        for use in (handle.result, lambda: tg.enqueue(f.echo, 2)):
            with pytest.raises(NotOpen):
                use()
    with queue:
        assert handle.status() is State.CANCELLED


def test_a_block_that_was_left_cancels_nothing_more(queue: SyncTaskQueue) -> None:
    with queue.task_group() as tg:
        within = copy_context()
        tg.cancel()
    assert within.run(queue.counts)[State.CANCELLED] == 0
    assert queue.counts()[State.PENDING] == 0


# Maps.


def test_a_map_in_order(queue: SyncTaskQueue, working: Working) -> None:
    threads: set[threading.Thread] = set()

    def items() -> Iterator[int]:
        for n in range(25):
            threads.add(threading.current_thread())
            yield n

    with working(), queue.map(f.echo, items(), limit=10) as results:
        assert [*results] == [*range(25)]
    assert threads == {threading.current_thread()}


def test_items_are_taken_as_results_are(queue: SyncTaskQueue, working: Working) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(1_000):
            taken.append(n)
            yield n

    with working(), queue.map(f.echo, items(), limit=10) as results:
        for value in results:
            assert len(taken) <= value + 11
            if value == 30:
                break
    assert len(taken) <= 41
    assert queue.counts()[State.PENDING] == 0


def test_a_map_as_they_come(queue: SyncTaskQueue, working: Working) -> None:
    with working(), queue.map(f.echo, range(25), limit=7, ordered=False) as results:
        assert sorted(results) == [*range(25)]


def test_a_failure_ends_a_map(queue: SyncTaskQueue, working: Working) -> None:
    with working():
        with pytest.raises(ExceptionGroup) as caught, queue.map(f.fail, ["no"]) as results:
            next(results)
        assert [type(error) for error in caught.value.exceptions] == [TaskFailed]


def test_an_iterable_that_raises(queue: SyncTaskQueue, working: Working) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    with working():
        with pytest.raises(ExceptionGroup) as caught, queue.map(f.echo, items()) as results:
            next(results)
        assert [type(error) for error in caught.value.exceptions] == [LookupError]


def test_wrong_maps(queue: SyncTaskQueue) -> None:
    with pytest.raises(InvalidOption, match="an iterable"):
        queue.map(f.echo, 5)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="limit"):
        queue.map(f.echo, [], limit=0)
    with pytest.raises(UsageError, match="not open"):
        next(queue.map(f.echo, [1]))
    with queue.map(f.echo, []) as results:
        assert [*results] == []

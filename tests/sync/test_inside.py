"""A sync queue inside of task functions: whose its groups are, what a wait does, how it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest

from sitq import State, SyncTaskQueue, Worker
from sitq.errors import TaskCancelled, TaskFailed

from . import functions as f

Combination = tuple[str, str, str]
Working = Callable[..., AbstractContextManager[Worker]]
PATIENCE = 20.0


@pytest.fixture(
    params=[
        ("file", "asyncio", "asyncio"),
        ("file", "asyncio", "trio"),
        ("file", "trio", "asyncio"),
        ("file", "trio", "trio"),
        ("postgres", "asyncio", "trio"),
    ],
    ids="-".join,
)
def combination(request: pytest.FixtureRequest) -> Combination:
    """The store, the loop of the queue and that of the worker."""
    return request.param


@pytest.fixture
def url(request: pytest.FixtureRequest, combination: Combination) -> str:
    return request.getfixturevalue(f"{combination[0]}_url")


@pytest.fixture
def loop(combination: Combination) -> str:
    return combination[1]


@pytest.fixture
def at_work(working: Working, combination: Combination) -> Working:
    return partial(working, combination[2])


@pytest.fixture(autouse=True)
def nothing_noted(queue: SyncTaskQueue) -> Iterator[None]:
    yield
    f.noted.clear()


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_tree_of_plain_functions_needs_one_slot(queue: SyncTaskQueue, at_work: Working) -> None:
    with at_work(max_concurrency=1):
        handle = queue.enqueue(f.total, 2, 2)
        assert handle.result(PATIENCE) == 4
    tree = queue.tree(handle)
    assert tree is not None
    assert [len(child.children) for child in tree.children] == [2, 2]


def test_a_plain_task_that_is_waited_for_needs_no_second_slot(
    queue: SyncTaskQueue, at_work: Working
) -> None:
    with at_work(max_concurrency=1):
        handle = queue.enqueue(f.enqueues, "x")
        assert handle.result(PATIENCE) == "x"
    tree = queue.tree(handle)
    assert tree is not None
    assert tree.children == ()


def test_a_second_try_finds_the_children_of_the_first(
    queue: SyncTaskQueue, at_work: Working
) -> None:
    with at_work():
        handle = queue.enqueue(f.tried_twice)
        assert handle.result(PATIENCE) == "kept"
    assert f.noted.count("kept") == 1
    assert f.noted.count("second") == 1
    tree = queue.tree(handle)
    assert tree is not None
    assert tree.task.attempts == 1


@pytest.mark.parametrize("in_group", [True, False])
def test_cancelling_the_task_ends_its_wait(
    queue: SyncTaskQueue, at_work: Working, in_group: bool
) -> None:
    with at_work():
        handle = queue.enqueue(f.waits, in_group=in_group)
        assert f.gates["sleeping"].wait(PATIENCE)
        until(lambda: f.noted)
        [child] = f.noted
        assert handle.cancel()
        with pytest.raises(TaskCancelled):
            handle.result(PATIENCE)
        assert isinstance(f.noted[1], CancelledError)
        assert child.status() is (State.CANCELLED if in_group else State.RUNNING)
        child.cancel()


def test_a_timeout_ends_its_wait(queue: SyncTaskQueue, at_work: Working) -> None:
    with at_work():
        with pytest.raises(TaskFailed, match=r"timeout of 0\.3 s"):
            queue.enqueue(f.waits_briefly).result(PATIENCE)
        child, error = f.noted
        assert isinstance(error, CancelledError)
        assert child.status() is State.PENDING


def test_a_shutdown_gives_the_waiting_task_back_and_leaves_its_children(
    queue: SyncTaskQueue, at_work: Working
) -> None:
    with at_work(grace=60):
        handle = queue.enqueue(f.waits_for_later)
        until(lambda: f.noted)
    [child, error] = f.noted
    assert isinstance(error, CancelledError)
    parent = handle.get()
    assert parent is not None
    assert (parent.state, parent.attempts, parent.crashes) == (State.PENDING, 0, 0)
    assert child.status() is State.PENDING
    f.noted.clear()
    with at_work(grace=60):
        until(lambda: f.noted)
        assert f.noted == [child]


def test_children_take_the_deadline_of_the_run(queue: SyncTaskQueue, at_work: Working) -> None:
    with at_work():
        left = queue.enqueue(f.deadlines).result(PATIENCE)
    assert left is not None
    assert 0 < left <= 50


def test_an_async_function_is_not_to_stop_its_worker(
    queue: SyncTaskQueue, at_work: Working
) -> None:
    with at_work(), pytest.raises(TaskFailed, match="use TaskQueue"):
        queue.enqueue(f.blocks_its_loop).result(PATIENCE)


def test_a_thread_of_the_function_is_no_part_of_the_run(
    queue: SyncTaskQueue, at_work: Working
) -> None:
    with at_work():
        handle = queue.enqueue(f.in_a_thread_of_its_own)
        assert handle.result(PATIENCE) == [7]

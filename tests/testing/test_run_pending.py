"""`run_pending`: everything that is stored comes to its end, however far ahead that is."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from anyio import create_task_group, get_cancelled_exc_class

from sitq import Registry, Result, Retry, SQLiteBackend, State, TaskQueue, Worker, current_task
from sitq.errors import InvalidOption, NotRegistered, TaskFailed, UsageError
from sitq.testing import Clock, Queue, run_pending

pytestmark = pytest.mark.anyio

HOUR = 3600.0
registry = Registry()
strangers = Registry()
queues: list[Queue] = []
clocks: list[Clock] = []
happened: list[object] = []


@pytest.fixture(autouse=True)
def shared(request: pytest.FixtureRequest) -> Iterator[None]:
    """What task functions know of the test."""
    happened.clear()
    yield
    queues.clear()
    clocks.clear()


@pytest.fixture
def known(queue: Queue, clock: Clock) -> Queue:
    queues[:] = [queue]
    clocks[:] = [clock]
    return queue


def hours() -> float:
    return round((clocks[0].time() - Clock().time()) / HOUR, 3)


@registry.task
async def note(what: object) -> object:
    happened.append((what, hours()))
    return what


@registry.task
def note_in_thread(what: object) -> object:
    happened.append((what, hours()))
    return what


@registry.task(retry=Retry(attempts=3, base=HOUR, cap=10 * HOUR, jitter=False))
async def third_time() -> int:
    attempt = current_task().attempt
    happened.append(hours())
    if attempt < 3:
        raise ValueError(f"attempt {attempt}")
    return attempt


@registry.task(retry=Retry(attempts=1_000_000, base=1, cap=1))
async def never_succeeds() -> None:
    raise ValueError("never")


@registry.task
async def again() -> None:
    await queues[0].enqueue(again)


@registry.task
async def chain(left: int) -> None:
    happened.append(left)
    if left:
        await queues[0].enqueue(chain.using(delay=HOUR), left - 1)


@registry.task
async def parent_of(*delays: float) -> list[object]:
    async with queues[0].task_group() as tg:
        handles = [await tg.enqueue(note.using(delay=delay), delay) for delay in delays]
    return [await handle.result() for handle in handles]


@registry.task
async def one_after_the_other(first: float, second: float) -> None:
    for delay in (first, second):
        async with queues[0].task_group() as tg:
            await tg.enqueue(note.using(delay=delay), delay)
        happened.append(("parent", hours()))


@registry.task
async def waits_for_a_failure() -> None:
    async with queues[0].task_group() as tg:
        await tg.enqueue(note.using(delay=HOUR), "sibling")
        await tg.enqueue(fails)


@registry.task
async def fails() -> None:
    raise ValueError("no")


@registry.task
async def sleeps(seconds: float) -> str:
    await anyio.sleep(seconds)
    return "slept"


@registry.task
def sleeps_in_thread(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@registry.task
async def blocks() -> None:
    try:
        happened.append("begun")
        await anyio.sleep(math.inf)
    except get_cancelled_exc_class():
        happened.append("cancelled")
        raise


@registry.task
async def enqueues_a_stranger() -> None:
    await queues[0].enqueue(stranger)


@registry.task
async def runs_elsewhere() -> str:
    while len(await queues[0].workers()) < 2:
        await anyio.sleep(0.001)
    await anyio.sleep(0.05)
    happened.append(hours())
    return "beside another"


@registry.task
async def meets(other: str) -> str:
    happened.append(other)
    while len(happened) < 2:
        await anyio.sleep(0.001)
    return "met"


@registry.task
async def shares() -> object:
    return current_task().resources


@asynccontextmanager
async def lifespan() -> AsyncIterator[str]:
    happened.append("opened")
    yield "shared"
    happened.append("closed")


@registry.task
async def retries(id: str) -> None:
    await queues[0].retry(id)


@registry.task(priority=-1)
async def cancels(id: str) -> None:
    await queues[0].cancel(id)


@registry.task
async def runs_pending() -> None:
    await run_pending(queues[0], registry=registry)


@registry.task(queue="elsewhere", priority=5)
async def elsewhere() -> str:
    return "there"


@strangers.task
async def stranger() -> None:
    """Is unknown to the registry."""


def states(results: list[Result]) -> list[State]:
    return [result.state for result in results]


def values(results: list[Result]) -> list[object]:
    return [result.value for result in results]


async def test_nothing_is_pending(known: Queue) -> None:
    assert await run_pending(known, registry=registry) == []
    assert await known.workers() == []


async def test_what_is_due_runs_async_and_in_threads_from_any_queue(known: Queue) -> None:
    for function in (note, note_in_thread):
        await known.enqueue(function, function.name)
    await known.enqueue(elsewhere)
    results = await run_pending(known, registry=registry)
    assert values(results) == ["there", note.name, note_in_thread.name]
    assert hours() == 0


async def test_delays_are_travelled_in_order_and_at_the_right_moments(known: Queue) -> None:
    for delay in (48 * HOUR, HOUR, 0.0, 12 * HOUR):
        await known.enqueue(note.using(delay=delay), delay / HOUR)
    results = await run_pending(known, registry=registry)
    assert values(results) == [0.0, 1.0, 12.0, 48.0]
    assert happened == [(0.0, 0), (1.0, 1), (12.0, 12), (48.0, 48)]


async def test_the_clock_travels_by_the_wall_alone(known: Queue, clock: Clock) -> None:
    before = clock.monotonic()
    await known.enqueue(note.using(delay=HOUR), 1)
    await run_pending(known, registry=registry)
    assert (hours(), clock.monotonic()) == (1, before)


async def test_retries_are_travelled(known: Queue) -> None:
    await known.enqueue(third_time)
    [result] = await run_pending(known, registry=registry)
    assert (result.value, result.attempts) == (3, 2)
    assert happened == [0, 1, 3]


async def test_tasks_that_tasks_enqueue_are_run(known: Queue) -> None:
    await known.enqueue(chain, 3)
    assert len(await run_pending(known, registry=registry)) == 4
    assert (happened, hours()) == ([3, 2, 1, 0], 3)


async def test_parents_wait_for_children_that_are_delayed(known: Queue) -> None:
    await known.enqueue(parent_of, 2 * HOUR, HOUR)
    results = await run_pending(known, registry=registry)
    assert values(results) == [HOUR, 2 * HOUR, [2 * HOUR, HOUR]]
    assert happened == [(HOUR, 1), (2 * HOUR, 2)]


async def test_a_parent_goes_on_before_the_clock_does(known: Queue) -> None:
    await known.enqueue(one_after_the_other, 0.0, HOUR)
    await known.enqueue(note.using(delay=2 * HOUR), "later")
    await run_pending(known, registry=registry)
    assert happened == [
        (0.0, 0),
        ("parent", 0),
        (HOUR, 1),
        ("parent", 1),
        ("later", 2),
    ]


async def test_a_failure_of_a_child_ends_its_family(known: Queue) -> None:
    await known.enqueue(waits_for_a_failure)
    results = await run_pending(known, registry=registry)
    assert {result.name.rpartition(".")[2]: result.state for result in results} == {
        "fails": State.FAILED,
        "note": State.CANCELLED,
        "waits_for_a_failure": State.FAILED,
    }
    assert hours() == 0


async def test_what_waits_and_is_cancelled(known: Queue) -> None:
    handle = await known.enqueue(parent_of, 0.0, HOUR)
    await known.enqueue(cancels, str(handle.id))
    results = await run_pending(known, registry=registry)
    assert sorted(states(results)) == ["cancelled", "cancelled", "succeeded", "succeeded"]
    assert (happened, hours()) == ([(0.0, 0)], 0)


async def test_a_group_of_the_test_itself(known: Queue) -> None:
    async with known.task_group() as tg:
        await tg.enqueue(note.using(delay=HOUR), 1)
        await tg.enqueue(note.using(delay=100 * HOUR), 2)
        assert values(await run_pending(known, registry=registry)) == [1, 2]


def at(hour: float) -> datetime:
    return datetime.fromtimestamp(Clock().time(), UTC) + timedelta(hours=hour)


async def test_a_deadline_that_passes_before_the_task_may_run(known: Queue) -> None:
    handle = await known.enqueue(note.using(delay=2 * HOUR, deadline=at(1)), 1)
    assert states(await run_pending(known, registry=registry)) == [State.FAILED]
    with pytest.raises(TaskFailed, match="DeadlinePassed: the deadline passed before"):
        await handle.result()
    assert (happened, hours()) == ([], 1)


async def test_a_deadline_that_passes_while_a_parent_waits(known: Queue) -> None:
    handle = await known.enqueue(parent_of.using(deadline=at(1)), 0.0, 2 * HOUR)
    await known.enqueue(note.using(delay=1.5 * HOUR), "later")
    results = await run_pending(known, registry=registry)
    assert sorted(states(results)) == ["cancelled", "failed", "succeeded", "succeeded"]
    with pytest.raises(TaskFailed, match="DeadlinePassed: the deadline passed while"):
        await handle.result()
    assert happened == [(0.0, 0), ("later", 1.5)]


async def test_a_timeout_that_passes_while_a_parent_waits(known: Queue) -> None:
    handle = await known.enqueue(parent_of.using(timeout=60), HOUR)
    await run_pending(known, registry=registry)
    with pytest.raises(TaskFailed, match="TaskTimedOut"):
        await handle.result()
    assert happened == []
    assert hours() == pytest.approx(60 / HOUR, abs=0.01)


async def test_a_task_that_takes_real_time_is_waited_for(known: Queue) -> None:
    await known.enqueue(sleeps, 0.05)
    await known.enqueue(sleeps_in_thread, 0.05)
    await known.enqueue(note.using(delay=HOUR), "later")
    assert values(await run_pending(known, registry=registry)) == ["slept", "slept", "later"]


async def test_tasks_that_need_each_other_while_they_run(known: Queue) -> None:
    await known.enqueue(meets, "one")
    await known.enqueue(meets, "the other")
    assert values(await run_pending(known, registry=registry, max_concurrency=2)) == ["met", "met"]


async def test_what_tasks_share(known: Queue) -> None:
    await known.enqueue(shares)
    await known.enqueue(shares.using(delay=HOUR))
    results = await run_pending(known, registry=registry, lifespan=lifespan)
    assert (values(results), happened) == (["shared", "shared"], ["opened", "closed"])


async def test_what_ended_before_is_not_told_again(known: Queue) -> None:
    await known.enqueue(note, 1)
    await run_pending(known, registry=registry)
    await known.enqueue(note, 2)
    assert values(await run_pending(known, registry=registry)) == [2]
    assert await run_pending(known, registry=registry) == []


async def test_what_was_retried_by_hand_is_told_again(known: Queue) -> None:
    handle = await known.enqueue(fails)
    assert states(await run_pending(known, registry=registry)) == [State.FAILED]
    await known.retry(handle)
    assert states(await run_pending(known, registry=registry)) == [State.FAILED]
    await known.enqueue(retries, str(handle.id))
    assert states(await run_pending(known, registry=registry)) == ["succeeded", "failed"]


async def test_a_task_cannot_run_them_all(known: Queue) -> None:
    await known.enqueue(runs_pending)
    [result] = await run_pending(known, registry=registry)
    assert result.error is not None
    assert result.error.message == "a task cannot run all tasks to their end: it is one of them"


async def left_behind(queue: Queue) -> tuple[int, list[object]]:
    counts = await queue.counts()
    return counts[State.RUNNING], [*await queue.workers()]


async def test_functions_that_are_not_registered_are_named_before_anything_runs(
    known: Queue,
) -> None:
    await known.enqueue(note, 1)
    await known.enqueue(stranger.using(delay=HOUR))
    with pytest.raises(NotRegistered, match=r"stranger \(1\); import"):
        await run_pending(known, registry=registry)
    assert happened == []
    assert await left_behind(known) == (0, [])


async def test_functions_that_are_not_registered_and_enqueued_by_tasks(known: Queue) -> None:
    await known.enqueue(enqueues_a_stranger)
    with pytest.raises(NotRegistered, match=r"stranger \(1\); import"):
        await run_pending(known, registry=registry)
    assert await left_behind(known) == (0, [])


@pytest.mark.parametrize("function", [again, never_succeeds], ids=["enqueued", "retried"])
async def test_what_has_no_end_is_ended_by_the_limit(known: Queue, function: object) -> None:
    handle = await known.enqueue(function)
    with pytest.raises(UsageError, match=r"20 runs were not enough; pending: .*\(1\); does a task"):
        await run_pending(known, registry=registry, limit=20)
    ended = (await known.counts())[State.SUCCEEDED]
    task = await handle.get()
    assert task is not None
    assert (ended, task.attempts) in [(20, 0), (0, 20)]
    assert await left_behind(known) == (0, [])


async def test_as_many_runs_as_the_limit(known: Queue) -> None:
    await known.enqueue(chain, 3)
    assert len(await run_pending(known, registry=registry, limit=4)) == 4


async def test_what_takes_too_long_is_told_and_goes_back(known: Queue) -> None:
    await known.enqueue(blocks)
    await known.enqueue(note.using(delay=HOUR), 1)
    with pytest.raises(
        TimeoutError, match=r"after 0.1 s; running: .*blocks \(1\); pending: .*note"
    ):
        await run_pending(known, registry=registry, timeout=0.1)
    assert happened == ["begun", "cancelled"]
    assert await left_behind(known) == (0, [])
    assert (await known.counts())[State.PENDING] == 2


async def test_it_can_be_cancelled(known: Queue) -> None:
    await known.enqueue(blocks)
    async with create_task_group() as tg:
        tg.start_soon(lambda: run_pending(known, registry=registry))
        while not happened:
            await anyio.sleep(0.001)
        tg.cancel_scope.cancel()
    assert happened == ["begun", "cancelled"]
    assert await left_behind(known) == (0, [])
    [task] = await known.find()
    assert (task.state, task.attempts, task.crashes) == (State.PENDING, 0, 0)


async def test_another_worker_has_its_share(known: Queue, backend: SQLiteBackend) -> None:
    handle = await known.enqueue(runs_elsewhere)
    async with Worker(backend, registry=registry, poll_interval=0.01):
        while await handle.status() is not State.RUNNING:
            await anyio.sleep(0.001)
        await known.enqueue(note.using(delay=HOUR), "later")
        await known.enqueue(third_time)
        results = await run_pending(known, registry=registry)
        [worker] = await known.workers()
    assert values(results) == ["beside another", "later", 3]
    assert happened == [0, 0, ("later", 1), 1, 3] or happened == [0, 0, 1, ("later", 1), 3]
    assert worker.silent == 0
    assert results[0].attempts == 0


class Late(SQLiteBackend):
    """Somebody enqueues a task at the moment at which none was left."""

    async def counts(self, queue: str | None = None) -> Mapping[State, int]:
        counts = await super().counts(queue)
        if not happened and not counts[State.RUNNING]:
            happened.append("enqueued")
            await TaskQueue(self).enqueue(elsewhere)
        return counts


async def test_what_is_enqueued_while_it_looks_is_run_as_well(anyio_backend: str) -> None:
    async with TaskQueue(Late(":memory:")) as queue:
        assert values(await run_pending(queue, registry=registry)) == ["there"]
        assert happened == ["enqueued"]


async def test_without_a_clock_that_travels(anyio_backend: str) -> None:
    async with TaskQueue(SQLiteBackend(":memory:")) as queue:
        await queue.enqueue(elsewhere)
        assert values(await run_pending(queue, registry=registry)) == ["there"]
        await queue.enqueue(elsewhere)
        await queue.enqueue(elsewhere.using(delay=HOUR))
        with pytest.raises(UsageError, match=r"have to wait: .*elsewhere \(1\); give .*Clock\(\)"):
            await run_pending(queue, registry=registry)
        assert (await queue.counts())[State.SUCCEEDED] == 2


async def test_a_queue_that_was_never_entered_can_be_used_afterwards(anyio_backend: str) -> None:
    backend = SQLiteBackend(":memory:", clock=Clock())
    queue = TaskQueue(backend)
    assert await run_pending(queue, registry=registry) == []
    await queue.enqueue(elsewhere)
    assert values(await run_pending(queue, registry=registry)) == ["there"]
    await backend.close()


async def test_it_takes_a_queue(anyio_backend: str) -> None:
    backend: Any = SQLiteBackend(":memory:")
    with pytest.raises(UsageError, match="takes a TaskQueue on the store: SQLiteBackend"):
        await run_pending(backend)


@pytest.mark.parametrize(
    "options", [{"limit": 0}, {"limit": 1.5}, {"timeout": 0}, {"max_concurrency": 0}]
)
async def test_options_are_checked(anyio_backend: str, options: dict[str, float]) -> None:
    queue = TaskQueue(SQLiteBackend(":memory:"))
    with pytest.raises(InvalidOption):
        await run_pending(queue, **options)

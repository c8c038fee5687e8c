"""What a queue refuses, with which error, and that nothing was stored; and what keys promise."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest

from sitq import Call, Registry, SQLiteBackend, State, TaskHandle, TaskQueue, Worker
from sitq.errors import (
    InvalidArguments,
    InvalidOption,
    KeyTaken,
    NotOpen,
    NotRegistered,
    NotSerializable,
    SitqError,
    TaskCancelled,
    TaskNotFound,
    UsageError,
    WrongState,
)

pytestmark = pytest.mark.anyio

registry = Registry()


@registry.task(name="echo")
async def echo(value: Any) -> Any:
    return value


@registry.task(name="sleep")
async def sleep() -> None:
    await anyio.sleep(30)


def unregistered() -> None: ...


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


HUGE = "x" * 1_000_000
BEYOND_FLOAT = 10**400
BEYOND_REPR = 10**5000
NO_NAMES = ["", HUGE, "a\0b", "a\ud800", "a\nb", "a\n", "../", "/etc", "a b", 5, b"a", True]
NO_KEYS = ["", HUGE, "x" * 513, "a\0b", "a\ud800", "a\nb", "\r", "\u2028", 5, b"a", True, NoRepr()]
NO_SECONDS = [-1, -0.001, math.nan, -math.inf, BEYOND_FLOAT, BEYOND_REPR, True, "1", [1], NoRepr()]
NO_MOMENTS = [
    datetime(9999, 12, 31, tzinfo=UTC),
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
    datetime(2030, 1, 1),
    0,
    1e9,
    "2030-01-01T00:00:00Z",
    timedelta(1),
]
NO_IDS = [None, 5, True, "", "x", HUGE, "\ud800", "a\0b", "../", b"1" * 16, [], NoRepr()]


@pytest.fixture
async def queue() -> AsyncIterator[TaskQueue]:
    async with TaskQueue(SQLiteBackend(":memory:")) as queue:
        yield queue


@pytest.fixture
async def running(queue: TaskQueue) -> AsyncIterator[TaskHandle[None]]:
    """A task that runs until its worker is stopped."""
    handle = await queue.enqueue(sleep)
    async with Worker(queue._backend, registry=registry, grace=0):
        with anyio.fail_after(5):
            while await handle.status() is not State.RUNNING:
                await anyio.sleep(0.005)
        yield handle


async def total(queue: TaskQueue) -> int:
    return sum((await queue.counts()).values())


async def refusal(
    queue: TaskQueue, error: type[SitqError], call: Callable[[], Awaitable[object]]
) -> str:
    """The message of this error, which the call must raise without storing or losing a task."""
    before = await queue.counts()
    with pytest.raises(error) as caught, anyio.fail_after(5):
        await call()
    assert error is NotSerializable or type(caught.value) is error
    assert await queue.counts() == before
    message = str(caught.value)
    assert 10 < len(message) < 500
    return message


@pytest.mark.parametrize(
    "function", [unregistered, lambda: None, len, NoRepr(), None, "echo", echo.function]
)
async def test_only_task_functions_are_taken(queue: TaskQueue, function: Any) -> None:
    bad = Call(function, (), {})
    for call in (lambda: queue.enqueue(function), lambda: queue.enqueue_many([bad])):
        assert "decorate it with @task" in await refusal(queue, NotRegistered, call)
    assert await total(queue) == 0


async def test_arguments_have_to_fit(queue: TaskQueue) -> None:
    wrong: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {}),
        ((1, 2), {}),
        ((1,), {"value": 2}),
        ((), {"other": 1}),
    ]
    for args, kwargs in wrong:
        for call in (
            lambda a=args, k=kwargs: queue.enqueue(echo, *a, **k),
            lambda a=args, k=kwargs: queue.enqueue_many([echo.call(*a, **k)]),
        ):
            assert "echo()" in await refusal(queue, InvalidArguments, call)
    with pytest.raises(TypeError):
        await queue.enqueue(echo)  # pyright: ignore[reportCallIssue]
    assert await total(queue) == 0


@pytest.mark.parametrize("value", ["x" * 2_000_000, b"x" * 2_000_000, ["x" * 100_000] * 20])
async def test_large_arguments_are_refused(queue: TaskQueue, value: object) -> None:
    for call in (
        lambda: queue.enqueue(echo, value),
        lambda: queue.enqueue_many([echo.call(1), echo.call(value)]),
    ):
        message = await refusal(queue, NotSerializable, call)
        assert "the arguments of echo" in message
        assert "1,048,576" in message
    assert await total(queue) == 0


async def test_what_cannot_be_stored_is_named_by_its_path(queue: TaskQueue) -> None:
    value = {"a": [1, object()]}
    positional = await refusal(queue, NotSerializable, lambda: queue.enqueue(echo, value))
    named = await refusal(queue, NotSerializable, lambda: queue.enqueue(echo, value=value))
    assert 'args[0]["a"][1]: object' in positional
    assert 'kwargs["value"]["a"][1]: object' in named
    with pytest.raises(TypeError):
        await queue.enqueue(echo, print)
    for odd in (NoRepr(), print, len, queue):
        await refusal(queue, NotSerializable, lambda odd=odd: queue.enqueue(echo, {"x": [odd]}))
    assert await total(queue) == 0


@pytest.mark.parametrize(
    "calls", [None, 5, echo, echo.call(1), [None], "abc", [echo], [(echo, 1)], {"a": 1}, [[]]]
)
async def test_only_calls_are_enqueued_many(queue: TaskQueue, calls: Any) -> None:
    message = await refusal(queue, InvalidOption, lambda: queue.enqueue_many(calls))
    assert message.startswith("enqueue_many takes ")
    assert await total(queue) == 0


async def test_one_bad_call_stores_none(queue: TaskQueue) -> None:
    good = [echo.call(number) for number in range(5)]
    for error, bad in (
        (InvalidOption, None),
        (NotRegistered, Call(unregistered, (), {})),  # pyright: ignore[reportArgumentType]
        (NotSerializable, echo.call(object())),
        (NotSerializable, echo.using(key="k").call("x" * 2_000_000)),
    ):
        calls: Any = [*good, bad, *good]
        await refusal(queue, error, lambda calls=calls: queue.enqueue_many(calls))
    assert await total(queue) == 0


async def test_an_error_of_the_callers_own_generator_stores_nothing(queue: TaskQueue) -> None:
    def calls() -> Iterator[Call[Any]]:
        yield echo.call(1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await queue.enqueue_many(calls())
    assert await total(queue) == 0


async def test_no_calls_are_no_error(queue: TaskQueue) -> None:
    assert await queue.enqueue_many([]) == []
    assert await queue.enqueue_many(iter(())) == []
    assert await total(queue) == 0


async def test_too_many_calls_are_refused(queue: TaskQueue) -> None:
    calls = itertools.repeat(echo.call(None), 100_001)
    with pytest.raises(InvalidOption, match="more than 100000 calls"):
        await queue.enqueue_many(calls)
    assert await total(queue) == 0


@pytest.mark.parametrize("name", ["delay", "timeout"])
async def test_spans_out_of_range(queue: TaskQueue, name: str) -> None:
    for bad in [*NO_SECONDS, 1e10, {"delay": math.inf, "timeout": 0}[name]]:
        message = await refusal(
            queue, InvalidOption, lambda bad=bad: queue.enqueue(echo.using(**{name: bad}), 1)
        )
        assert message.startswith(f"{name} must be ")
    assert await total(queue) == 0


@pytest.mark.parametrize("name", ["run_at", "deadline"])
async def test_moments_out_of_range(queue: TaskQueue, name: str) -> None:
    for bad in NO_MOMENTS:
        options: dict[str, Any] = {name: bad}
        message = await refusal(
            queue, InvalidOption, lambda options=options: queue.enqueue(echo.using(**options), 1)
        )
        assert message.startswith(f"{name} must ")
    assert await total(queue) == 0


async def test_delay_and_run_at_exclude_each_other(queue: TaskQueue) -> None:
    both: dict[str, Any] = {"delay": 1, "run_at": datetime.now(UTC)}
    await refusal(queue, InvalidOption, lambda: queue.enqueue(echo.using(**both), 1))
    assert await total(queue) == 0


async def test_priorities_out_of_range(queue: TaskQueue) -> None:
    bads: list[Any] = [True, False, 101, -101, 0.0, "1", BEYOND_REPR, math.nan]
    for bad in bads:
        message = await refusal(
            queue, InvalidOption, lambda bad=bad: queue.enqueue(echo.using(priority=bad), 1)
        )
        assert "-100 to 100" in message
    assert await total(queue) == 0


@pytest.mark.parametrize(("name", "values"), [("queue", NO_NAMES), ("key", NO_KEYS)])
async def test_names_and_keys(queue: TaskQueue, name: str, values: list[Any]) -> None:
    for bad in values:
        options: dict[str, Any] = {name: bad}
        await refusal(
            queue, InvalidOption, lambda options=options: queue.enqueue(echo.using(**options), 1)
        )
    assert await total(queue) == 0


@pytest.mark.parametrize(
    "key", ["../", "x" * 512, " ", "a b", "ü\u00a0東", "'; drop table task --"]
)
async def test_a_key_is_any_text(queue: TaskQueue, key: str) -> None:
    handle = await queue.enqueue(echo.using(key=key), 1)
    assert [task.id for task in await queue.find(key=key)] == [handle.id]
    task = await handle.get()
    assert task is not None
    assert task.key == key


async def test_bad_ids(queue: TaskQueue) -> None:
    async def handle(id: Any) -> object:
        return queue.handle(id)

    async def wait(id: Any) -> object:
        return await queue.get_result(id, 1)

    for call in (handle, wait, queue.get_result, queue.get, queue.cancel, queue.retry):
        for bad in NO_IDS:
            message = await refusal(queue, UsageError, lambda call=call, bad=bad: call(bad))
            assert "handle or id" in message


async def test_bad_timeouts(queue: TaskQueue) -> None:
    handle = await queue.enqueue(echo, 1)
    for bad in NO_SECONDS:
        for call in (
            lambda bad=bad: queue.get_result(handle, bad),
            lambda bad=bad: handle.result(bad),
        ):
            message = await refusal(queue, InvalidOption, call)
            assert message.startswith("timeout must be ")


async def test_a_wait_ends_in_time(queue: TaskQueue) -> None:
    handle = await queue.enqueue(echo, 1)
    assert await queue.get_result(handle) is None
    assert await queue.get_result(handle, 0.01) is None
    with pytest.raises(TimeoutError):
        await handle.result(0.01)
    await queue.cancel(handle)
    for forever in (None, math.inf):
        with pytest.raises(TaskCancelled):
            await handle.result(forever)
    result = await queue.get_result(handle, math.inf)
    assert result is not None
    assert result.state is State.CANCELLED


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("state", ["", "done", "PENDING", 5, True, [], BEYOND_REPR]),
        ("queue", NO_NAMES),
        ("name", NO_NAMES),
        ("key", NO_KEYS),
        ("after", [-1, 2**63, True, 1.5, "1", None, math.nan]),
        ("limit", [0, -1, 10_001, True, 1.5, "1", None]),
    ],
)
async def test_bad_filters_of_find(queue: TaskQueue, name: str, values: list[Any]) -> None:
    for bad in values:
        options: dict[str, Any] = {name: bad}
        await refusal(queue, InvalidOption, lambda options=options: queue.find(**options))


async def test_bad_queues_of_counts(queue: TaskQueue) -> None:
    for bad in NO_NAMES:
        await refusal(queue, InvalidOption, lambda bad=bad: queue.counts(bad))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("state", ["", "done", 5, [], State.PENDING, State.RUNNING, "pending", "running"]),
        ("queue", NO_NAMES),
        ("name", NO_NAMES),
        ("older_than", [*NO_SECONDS, math.inf, None]),
    ],
)
async def test_bad_filters_of_purge(queue: TaskQueue, name: str, values: list[Any]) -> None:
    await queue.cancel(await queue.enqueue(echo, 1))
    for bad in values:
        options: dict[str, Any] = {name: bad}
        await refusal(queue, InvalidOption, lambda options=options: queue.purge(**options))


async def test_a_queue_that_was_left_is_closed() -> None:
    async with TaskQueue(SQLiteBackend(":memory:")) as queue:
        handle = await queue.enqueue(echo, 1)
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: queue.enqueue(echo, 1),
        lambda: queue.enqueue_many([echo.call(1)]),
        lambda: queue.enqueue_many([]),
        lambda: queue.get(handle),
        lambda: queue.get_result(handle),
        lambda: queue.get_result(handle, 1),
        lambda: queue.find(),
        lambda: queue.counts(),
        lambda: queue.cancel(handle),
        lambda: queue.retry(handle),
        lambda: queue.purge(),
        lambda: handle.result(1),
        handle.get,
        handle.status,
        handle.cancel,
    ]
    for call in calls:
        with pytest.raises(NotOpen, match="closed"):
            await call()


async def test_a_queue_that_was_left_leaves_the_backend_to_others() -> None:
    async with SQLiteBackend(":memory:") as backend:
        async with TaskQueue(backend) as queue:
            handle = await queue.enqueue(echo, 1)
        with pytest.raises(NotOpen):
            await queue.enqueue(echo, 2)
        assert await total(TaskQueue(backend)) == 1
        async with queue:
            assert await queue.get(handle) is not None


async def test_what_cannot_be_retried(queue: TaskQueue, running: TaskHandle[None]) -> None:
    pending = await queue.enqueue(echo.using(delay=60), 1)
    succeeded = await queue.enqueue(echo, 1)
    assert await succeeded.result(5) == 1
    for handle, state in ((pending, "pending"), (running, "running"), (succeeded, "succeeded")):
        message = await refusal(queue, WrongState, lambda handle=handle: queue.retry(handle))
        assert str(handle.id) in message
        assert f"is {state}" in message
        assert await handle.status() == state


async def test_a_retry_needs_its_key(queue: TaskQueue) -> None:
    keyed = echo.using(key="k")
    first = await queue.enqueue(keyed, 1)
    await first.cancel()
    second = await queue.enqueue(keyed, 2)
    assert first != second
    await refusal(queue, KeyTaken, lambda: queue.retry(first))
    assert await first.status() is State.CANCELLED
    await second.cancel()
    await queue.retry(first)
    assert await first.status() is State.PENDING
    assert await queue.enqueue(keyed, 3) == first


@pytest.mark.parametrize("form", [UUID, str, lambda id: id.hex])
async def test_unknown_tasks(queue: TaskQueue, form: Callable[[UUID], Any]) -> None:
    id = uuid4()
    unknown = form(id) if form is not UUID else id
    handle = queue.handle(unknown)
    for call in (
        lambda: queue.cancel(unknown),
        lambda: queue.retry(unknown),
        handle.cancel,
        handle.status,
        lambda: handle.result(5),
    ):
        assert str(id) in await refusal(queue, TaskNotFound, call)
    assert await queue.get(unknown) is None
    assert await handle.get() is None
    assert await queue.get_result(unknown) is None
    assert await queue.get_result(unknown, 5) is None


async def test_a_purged_task_is_unknown(queue: TaskQueue) -> None:
    handle = await queue.enqueue(echo, 1)
    await handle.cancel()
    assert await queue.purge() == 1
    await refusal(queue, TaskNotFound, lambda: handle.result(5))


async def test_the_loser_of_a_key_gets_the_living_task(queue: TaskQueue) -> None:
    keyed = echo.using(key="k")
    first = await queue.enqueue(keyed, 1)
    assert await queue.enqueue(keyed.using(queue="other", priority=1, delay=9), 2) == first
    assert await queue.enqueue(sleep.using(key="k")) == first
    others = await queue.enqueue_many([echo.call(3), keyed.call(4), echo.using(key="l").call(5)])
    assert others[1] == first
    assert len({*others, first}) == 3
    assert await total(queue) == 3
    task = await first.get()
    assert task is not None
    assert (task.queue, task.priority, task.name) == ("default", 0, "echo")
    async with Worker(queue._backend, registry=registry):
        assert await others[1].result(5) == 1


async def test_one_list_may_name_a_key_twice(queue: TaskQueue) -> None:
    handles = await queue.enqueue_many([echo.using(key="k").call(n) for n in range(3)])
    assert len(set(handles)) == 1
    assert await total(queue) == 1


async def test_many_callers_at_once_share_a_key(queue: TaskQueue) -> None:
    handles: set[TaskHandle[Any]] = set()

    async def enqueue(number: int) -> None:
        handles.add(await queue.enqueue(echo.using(key="k"), number))

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(enqueue, number)
    assert len(handles) == 1
    assert await total(queue) == 1


async def test_a_running_task_holds_its_key(queue: TaskQueue) -> None:
    handle = await queue.enqueue(sleep.using(key="k"))
    async with Worker(queue._backend, registry=registry, grace=0):
        with anyio.fail_after(5):
            while await handle.status() is not State.RUNNING:
                await anyio.sleep(0.005)
        assert await queue.enqueue(sleep.using(key="k")) == handle


async def test_a_key_is_free_again_after_the_end(queue: TaskQueue) -> None:
    keyed = echo.using(key="k")
    async with Worker(queue._backend, registry=registry):
        first = await queue.enqueue(keyed, 1)
        assert await first.result(5) == 1
        second = await queue.enqueue(keyed, 2)
        assert await second.result(5) == 2
    third = await queue.enqueue(keyed, 3)
    await third.cancel()
    fourth = await queue.enqueue(keyed, 4)
    assert len({first, second, third, fourth}) == 4
    assert [task.id for task in await queue.find(key="k", state="pending")] == [fourth.id]


async def test_purge_tells_how_many(queue: TaskQueue) -> None:
    one, two, three, live = await queue.enqueue_many(
        [echo.using(queue=name).call(1) for name in ("a", "a", "b", "b")]
    )
    for handle in (one, two, three):
        assert await handle.cancel() is True
        assert await handle.cancel() is False
    assert await queue.purge(older_than=3600) == 0
    assert await queue.purge(state=State.SUCCEEDED) == 0
    assert await queue.purge(name="other") == 0
    assert await queue.purge(queue="a", name="echo", state="cancelled") == 2
    assert await queue.purge() == 1
    assert await queue.purge() == 0
    assert [task.id for task in await queue.find()] == [live.id]


async def test_purge_takes_more_than_a_batch(queue: TaskQueue) -> None:
    handles = await queue.enqueue_many([echo.call(None)] * 1_000)
    async with anyio.create_task_group() as group:
        for handle in handles:
            group.start_soon(handle.cancel)
    assert await queue.purge() == 1_000
    assert await total(queue) == 0


async def test_find_by_pages(queue: TaskQueue) -> None:
    handles = await queue.enqueue_many([echo.call(number) for number in range(7)])
    found: list[UUID] = []
    page = await queue.find(limit=3)
    while page:
        assert len(page) == min(3, 7 - len(found))
        found += [task.id for task in page]
        by_number = await queue.find(after=page[-1].seq, limit=3)
        page = await queue.find(after=page[-1], limit=3)
        assert page == by_number
    assert found == [handle.id for handle in handles]
    assert await queue.find(after=2**63 - 1) == []


async def test_equal_handles_name_the_same_task(queue: TaskQueue) -> None:
    one, two = await queue.enqueue_many([echo.call(1), echo.call(1)])
    again = queue.handle(str(one.id))
    assert one == again
    assert hash(one) == hash(again)
    assert one != two
    assert one != one.id
    assert {one, two, again} == {one, two}
    assert str(one.id) in repr(one)
    assert await queue.get(one) == await queue.get(one.id) == await queue.get(one.id.hex)


async def test_a_timeout_of_nothing_is_a_look(queue: TaskQueue) -> None:
    handle = await queue.enqueue(echo, 1)
    assert await queue.get_result(handle, 0) is None
    with pytest.raises(TimeoutError, match="pending"):
        await handle.result(0)
    await handle.cancel()
    result = await queue.get_result(handle, 0)
    assert result is not None
    with pytest.raises(TaskCancelled):
        await handle.result(0)


async def test_an_endless_batch_is_refused(queue: TaskQueue) -> None:
    with pytest.raises(InvalidOption, match="chunks"):
        await queue.enqueue_many(itertools.repeat(echo.call(1)))


async def test_a_call_made_by_hand_is_checked(queue: TaskQueue) -> None:
    with pytest.raises(InvalidArguments):
        await queue.enqueue_many([Call(echo, (1, 2, 3), {})])


def test_an_empty_registry_is_a_registry() -> None:
    registry = Registry()
    assert Worker(SQLiteBackend(":memory:"), registry=registry)._registry is registry


@pytest.mark.parametrize("options", [{"busy_limit": "1"}, {"busy_limit": -1}, {"path": b"x"}])
def test_backend_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        SQLiteBackend(**{"path": ":memory:", **options})


@pytest.mark.parametrize("path", [5, None, True, "", "a\0b", "\ud800", b"bytes.db", ["x"]])
def test_a_path_that_names_no_file(path: Any) -> None:
    with pytest.raises(InvalidOption, match="path must"):
        SQLiteBackend(path)


def test_what_a_queue_is_made_of() -> None:
    for backend in ("tasks.db", Path("tasks.db"), None):
        with pytest.raises(InvalidOption, match="backend must"):
            TaskQueue(backend)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="dumps and loads"):
        TaskQueue(SQLiteBackend(":memory:"), serializer=5)  # type: ignore[arg-type]

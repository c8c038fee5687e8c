"""`Queue.enqueued`: finds calls by what they mean, and says what there was instead."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import ANY

import pytest

from sitq import Registry, SQLiteBackend, State, TaskQueue, Worker
from sitq.backends.base import Backend
from sitq.errors import InvalidArguments, NotRegistered
from sitq.testing import Queue

pytestmark = pytest.mark.anyio

registry = Registry()
older = Registry()


@registry.task(name="shop.fetch")
async def fetch(url: str, times: int = 1, *, proxy: str | None = None) -> None:
    """Is enqueued."""


@older.task(name="shop.fetch")
async def fetch_as_it_was(url: str, times: int, proxy: str, retries: int) -> None:
    """Is enqueued by a program that was not updated yet."""


@registry.task(name="shop.tag")
def tag(order: int, /, *names: str, **options: object) -> None:
    """Takes whatever there is."""


class Json:
    """A serializer that not everybody has."""

    def dumps(self, obj: object) -> bytes:
        return json.dumps(obj).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(data)


async def test_nothing_was_enqueued(queue: Queue) -> None:
    found = await queue.enqueued(fetch, "u")
    assert (len(found), bool(found), list(found)) == (0, False, [])
    assert repr(found) == "no call shop.fetch('u'); nothing was enqueued"


async def test_arguments_are_the_same_however_they_were_given(queue: Queue) -> None:
    await queue.enqueue(fetch, "u")
    await queue.enqueue(fetch, "u", 1, proxy=None)
    await queue.enqueue(fetch, times=1, url="u")
    for found in (
        await queue.enqueued(fetch, "u"),
        await queue.enqueued(fetch, url="u", proxy=None),
        await queue.enqueued(fetch, "u", times=1),
    ):
        assert [task.seq for task in found] == sorted(task.seq for task in found)
        assert len(found) == 3
    assert not await queue.enqueued(fetch, "u", 2)
    assert not await queue.enqueued(fetch, "u", proxy="p")


async def test_any_stands_for_any_value(queue: Queue) -> None:
    await queue.enqueue(fetch, "u", 7)
    assert await queue.enqueued(fetch, "u", ANY)
    assert await queue.enqueued(fetch, ANY, 7)
    assert not await queue.enqueued(fetch, ANY)


async def test_free_arguments(queue: Queue) -> None:
    await queue.enqueue(tag, 1, "a", "b", order=2)
    assert await queue.enqueued(tag, 1, "a", "b", order=2)
    assert not await queue.enqueued(tag, 1, "a", "b")
    assert not await queue.enqueued(tag, 1, "b", "a", order=2)


async def test_the_tasks_show_their_options(queue: Queue) -> None:
    await queue.enqueue(fetch.using(queue="io", priority=5, key="once"), "u")
    [task] = found = await queue.enqueued(fetch, "u")
    assert (task.queue, task.priority, task.key) == ("io", 5, "once")
    assert (found[0], found[-1], found[:1]) == (task, task, (task,))


async def test_what_others_enqueued_and_what_has_ended(queue: Queue, backend: Backend) -> None:
    other = TaskQueue(backend)
    handle = await other.enqueue(fetch, "u")
    async with Worker(backend, registry=registry):
        await handle.result(timeout=30)
    await other.enqueue(fetch, "u")
    found = await queue.enqueued(fetch, "u")
    assert [task.state for task in found] == [State.SUCCEEDED, State.PENDING]
    assert repr(found) == "2 calls shop.fetch('u'), succeeded, pending"


async def test_other_calls_of_the_function_are_shown(queue: Queue) -> None:
    await queue.enqueue(tag, 1, "a", colour="red")
    await queue.enqueue(fetch, "v")
    await queue.enqueue(fetch, "w", times=2)
    expected = "no call shop.fetch('u'); enqueued were shop.fetch('v'), shop.fetch('w', times=2)"
    assert repr(await queue.enqueued(fetch, "u")) == expected


async def test_other_functions_are_shown_where_it_was_never_called(queue: Queue) -> None:
    await queue.enqueue(tag, 1, "a", colour="red")
    expected = "no call shop.fetch('u'); enqueued were shop.tag(1, 'a', colour='red')"
    assert repr(await queue.enqueued(fetch, "u")) == expected


@pytest.mark.parametrize("url", ["v", "v" * 10_000], ids=["short", "long"])
@pytest.mark.parametrize("function", [fetch, tag], ids=["same", "other"])
async def test_what_is_shown_is_bounded(queue: Queue, url: str, function: Any) -> None:
    await queue.enqueue_many([function.call(url) for _ in range(100)])
    text = repr(await queue.enqueued(fetch, "u"))
    shown = text.count(f"{function.name}('v")
    assert shown == 5 if url == "v" else 1 <= shown < 5
    assert text.endswith(f" and {100 - shown} more")
    assert len(text) <= 240


async def test_arguments_that_no_longer_fit(queue: Queue) -> None:
    await queue.enqueue(fetch_as_it_was, "u", 1, "p", retries=3)
    expected = "no call shop.fetch('u'); enqueued were shop.fetch('u', 1, 'p', retries=3)"
    assert repr(await queue.enqueued(fetch, "u")) == expected


async def test_arguments_that_cannot_be_read(queue: Queue, backend: Backend) -> None:
    await TaskQueue(backend, serializer=Json()).enqueue(fetch, "u")
    text = repr(await queue.enqueued(fetch, "u"))
    assert text.endswith("enqueued were shop.fetch(<arguments that cannot be read>)")


async def test_a_serializer_of_ones_own(backend: Backend) -> None:
    async with Queue(backend, serializer=Json()) as queue:
        await TaskQueue(backend, serializer=Json()).enqueue(fetch, "u")
        assert await queue.enqueued(fetch, "u")


async def test_a_call_that_cannot_be(anyio_backend: str) -> None:
    async with Queue(SQLiteBackend(":memory:")) as queue:
        with pytest.raises(InvalidArguments):
            await queue.enqueued(fetch)  # pyright: ignore[reportCallIssue]
        with pytest.raises(NotRegistered):
            await queue.enqueued(print)  # pyright: ignore[reportArgumentType]

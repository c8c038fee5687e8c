"""Values that could be taken for something else by an array, a text, or a statement."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from sitq import Registry, TaskQueue, Worker
from sitq.backends.base import Filter, Wanted
from sitq.backends.postgres import PostgresBackend
from sitq.errors import InvalidOption
from sitq.model import NewChild, NewGroup, Reservation

from ...postgres import backend_at
from ..stage import RECORD
from .company import notes, registry, runs
from .stage import new_task

pytestmark = pytest.mark.anyio

TEXTS = [
    "'",
    '"',
    "''; DROP TABLE task; --",
    "\\",
    '\\"',
    '"\\',
    "\\x00",
    "{",
    "}",
    "{}",
    "{a,b}",
    ",",
    "NULL",
    "null",
    " leading and trailing ",
    "%s %(name)s %% %",
    "$1",
    "\u00e9\u20ac\U0001f600",
    "e\u0301",
    "\U0001f600" * 512,
    "\\" * 512,
    '"' * 512,
]


@pytest.fixture
async def backend(schema: str) -> AsyncIterator[PostgresBackend]:
    async with backend_at(schema) as made:
        yield made


async def test_keys_and_texts(backend: PostgresBackend) -> None:
    runs.clear()
    queue = TaskQueue(backend)
    calls = [notes.using(key=text).call(text) for text in TEXTS]
    handles = await queue.enqueue_many(calls)
    assert len({handle.id for handle in handles}) == len(TEXTS)
    assert [task.key for task in await queue.find(limit=100)] == TEXTS
    again = await queue.enqueue_many(calls)
    assert [handle.id for handle in again] == [handle.id for handle in handles]
    for text, handle in zip(TEXTS, handles, strict=True):
        [found] = await queue.find(key=text)
        assert found.id == handle.id
    async with Worker(backend, registry=registry):
        results = [await handle.result(20) for handle in handles]
    assert results == TEXTS
    assert sorted(runs) == sorted(TEXTS)


async def test_names_and_queues_that_nobody_checked(backend: PostgresBackend) -> None:
    now = await backend.now()
    texts = [text for text in TEXTS if len(text) < 256]
    tasks = [new_task(now, queue=text)._replace(name=text) for text in texts]
    await backend.insert(tasks)
    worker = await backend.hire(RECORD)
    for text in texts:
        got: list[Reservation] = []
        await backend.reserve(worker, Wanted(5, (text,), skip=(text,)), got.extend)
        assert got == []
        await backend.reserve(worker, Wanted(5, (text, *texts), skip=tuple(texts[1:])), got.extend)
        await backend.reserve(worker, Wanted(5, (text,)), got.extend)
        assert text in {task.name for task in got}
    for text in texts:
        [row] = await backend.find(Filter(name=text, queue=text), after=0, limit=5)
        assert (row.name, row.queue) == (text, text)


async def test_names_of_children(backend: PostgresBackend) -> None:
    worker = await backend.hire(RECORD)
    group = await backend.open_group(NewGroup(None, owner=worker))
    now = await backend.now()
    children = [NewChild(new_task(now), text, b"\\x00\xff'\"") for text in TEXTS]
    ids = await backend.insert_children(group, children)
    assert await backend.insert_children(group, children) == ids
    assert sum((await backend.counts()).values()) == len(TEXTS)
    await backend.cancel_group(group)
    ends = await backend.ended_children(group, 0)
    assert {end.child for end in ends} == set(TEXTS)


@pytest.mark.parametrize("key", ["\0", "a\0b", "\ud800", "", "x" * 513])
async def test_keys_that_are_refused(key: str, backend: PostgresBackend) -> None:
    with pytest.raises(InvalidOption):
        notes.using(key=key)
    queue = TaskQueue(backend)
    with suppress(InvalidOption):
        assert await queue.find(key=key) == []
    assert sum((await backend.counts()).values()) == 0


@pytest.mark.parametrize("text", ["\0", "\ud800", "x" * 10_000])
async def test_looking_for_what_cannot_be(text: str, backend: PostgresBackend) -> None:
    """It is refused, or nothing is found."""
    queue = TaskQueue(backend)
    with suppress(InvalidOption):
        assert await queue.find(name=text) == []
    with suppress(InvalidOption):
        assert await queue.find(queue=text) == []
    with suppress(InvalidOption):
        assert await queue.find(key=text) == []
    with suppress(InvalidOption):
        assert await queue.counts(queue=text) is not None
    with suppress(InvalidOption):
        assert await queue.purge(queue=text) == 0


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
async def test_arguments_and_values_of_any_size(size: int, backend: PostgresBackend) -> None:
    task = new_task(await backend.now(), size=size)
    await backend.insert([task])
    worker = await backend.hire(RECORD)
    got: list[Reservation] = []
    await backend.reserve(worker, Wanted(1, None), got.extend)
    assert got[0].arguments == task.arguments


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("what", ["name", "id"])
async def test_a_bad_row_does_not_harm_its_neighbours(
    what: str, key: str | None, backend: PostgresBackend
) -> None:
    now = await backend.now()
    first, *good = [new_task(now) for _ in range(6)]
    await backend.insert([first])
    bad = new_task(now, key)
    bad = bad._replace(name="a\0b") if what == "name" else bad._replace(id=first.id)
    errors: list[Exception] = []

    async def insert_bad() -> None:
        try:
            await backend.insert([bad])
        except Exception as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        for task in good:
            group.start_soon(backend.insert, [task])
        group.start_soon(insert_bad)
    assert len(errors) == 1
    assert sum((await backend.counts()).values()) == 6


async def test_moments_at_the_ends_of_time(backend: PostgresBackend) -> None:
    own = Registry()

    @own.task(name="any")
    async def any_() -> None: ...

    queue = TaskQueue(backend)
    far = datetime.now(UTC) + timedelta(days=25_000)
    past = datetime(1970, 1, 1, tzinfo=UTC)
    for moment in (far, past):
        task = await (await queue.enqueue(any_.using(run_at=moment, deadline=far))).get()
        assert task is not None
        assert (task.run_at, task.deadline) == (moment, far)
    await queue.enqueue(any_.using(delay=36_500 * 86_400.0, timeout=1e9, priority=-100))
    await queue.enqueue(any_.using(timeout=1e-9, priority=100))

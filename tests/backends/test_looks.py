"""What every backend tells of arguments, of queues, and of what workers hold."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from sitq import TaskQueue
from sitq.errors import NotSerializable, UsageError
from sitq.model import OutcomeKind
from sitq.serialization import pack_arguments
from sitq.testing.draws import BODIES

from .test_conformance import decide, take

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_arguments_come_back_as_they_went_in(backend, new, body):
    task = new(arguments=body)
    await backend.insert([new(), task])
    assert await backend.arguments(task.id) == body
    assert await backend.arguments(task.id, len(body)) == body


async def test_no_arguments_where_there_are_none(backend, new):
    small, big = new(arguments=b"12345"), new(arguments=bytes(5_000))
    await backend.insert([small, big])
    assert await backend.arguments(small.id, 4) is None
    assert await backend.arguments(big.id, 4_999) is None
    assert await backend.arguments(uuid4().bytes) is None


async def test_a_queue_tells_the_arguments_of_a_task(backend, new):
    queue = TaskQueue(backend)
    packed = pack_arguments(queue._serializer, ("a", 2), {"b": {3}}, "")
    task = new(arguments=packed)
    await backend.insert([task])
    assert await queue.arguments(queue.handle(_uuid(task))) == (("a", 2), {"b": {3}})
    assert await queue.arguments(uuid4()) is None
    with pytest.raises(UsageError):
        await queue.arguments("nothing")


@pytest.mark.parametrize("body", [b"\xc1", b"\x01", bytes(2 << 20)], ids=["bad", "a number", "big"])
async def test_arguments_that_cannot_be_read(backend, new, body):
    task = new(arguments=body)
    await backend.insert([task])
    with pytest.raises(NotSerializable, match=str(_uuid(task))):
        await TaskQueue(backend).arguments(_uuid(task))


async def test_queues_are_those_of_live_tasks(backend, new, record):
    assert await backend.queues() == []
    running, pending = new(queue="running", priority=1), new(queue="pending")
    gone, twin = new(queue="gone"), new(queue="pending", priority=-3)
    await backend.insert([running, pending, gone, twin])
    worker = await backend.hire(record)
    [held] = await take(backend, worker, limit=1)
    await backend.cancel(gone.id)
    assert await TaskQueue(backend).queues() == ["pending", "running"]
    await backend.settle(worker, [decide(backend, held)])
    assert await backend.queues() == ["pending"]


async def test_how_much_a_worker_holds(backend, new, record):
    await backend.insert([new() for _ in range(5)])
    busy, idle = await backend.hire(record), await backend.hire(record)
    held = await take(backend, busy, limit=3)
    await backend.settle(busy, [decide(backend, held[0], OutcomeKind.RELEASED)])
    found = await TaskQueue(backend).workers()
    assert [(row.id, row.held) for row in found] == [(busy, 2), (idle, 0)]


def _uuid(task):
    return UUID(bytes=task.id)

"""Never run: what a type checker must accept of a sync queue, and what it must report."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, assert_type

from sitq import Registry, SQLiteBackend, State, SyncTaskQueue, TaskHandle
from sitq.sync import SyncMapped, SyncTaskGroup, SyncTaskHandle

registry = Registry()


@registry.task
async def fetch(url: str, tries: int = 1) -> int:
    return len(url) * tries


@registry.task
def shrink(data: bytes, /, *, by: float) -> bytes:
    return data[: int(by)]


@registry.task
async def length(text: str) -> int:
    return len(text)


def made() -> None:
    SyncTaskQueue("sqlite:///tasks.db")
    SyncTaskQueue(SQLiteBackend("tasks.db"), loop="trio")
    SyncTaskQueue("sqlite:///tasks.db", loop="curio")  # pyright: ignore[reportArgumentType]
    SyncTaskQueue(5)  # pyright: ignore[reportArgumentType]


def enqueued(queue: SyncTaskQueue, other: TaskHandle[int]) -> None:
    handle = assert_type(queue.enqueue(fetch, "u", tries=2), SyncTaskHandle[int])
    assert_type(handle.result(timeout=5), int)
    assert_type(queue.enqueue(shrink.using(delay=1), b"", by=1).result(), bytes)
    assert_type(queue.enqueue_many([fetch.call("u")]), list[SyncTaskHandle[int]])
    anything: SyncTaskHandle[object] = handle
    assert_type(queue.counts(), Mapping[State, int])
    queue.cancel(handle)
    queue.retry(other)
    print(anything)

    queue.enqueue(fetch, 5)  # pyright: ignore[reportArgumentType]
    queue.enqueue(fetch)  # pyright: ignore[reportCallIssue]
    queue.enqueue(len, [])  # pyright: ignore[reportArgumentType, reportCallIssue]
    queue.enqueue_many([fetch])  # pyright: ignore[reportArgumentType]
    queue.get(5)  # pyright: ignore[reportArgumentType]


def in_blocks(queue: SyncTaskQueue) -> None:
    with queue as same:
        assert_type(same, SyncTaskQueue)
    with queue.task_group() as tg:
        assert_type(tg, SyncTaskGroup)
        assert_type(tg.enqueue(fetch, "u"), SyncTaskHandle[int])
        assert_type(tg.enqueue_many([shrink.call(b"", by=1)]), list[SyncTaskHandle[bytes]])
        assert_type(tg.as_completed(), Iterator[SyncTaskHandle[Any]])
        tg.enqueue(fetch, 5)  # pyright: ignore[reportArgumentType]
    with queue.map(length, ["u"]) as results:
        assert_type(results, SyncMapped[int])
        for value in results:
            assert_type(value, int)

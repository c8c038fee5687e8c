"""Never run: what a type checker must accept of task functions, and what it must report.

Every ``pyright: ignore`` stands on a line that is an error; one that is not needed is an error too.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import sqlite3
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, assert_type

from sitq import Retry, TaskHandle, TaskQueue
from sitq.registry import (
    AsyncTaskFunction,
    Call,
    Registry,
    SyncTaskFunction,
    TaskFunction,
    default_registry,
    task,
)

registry = Registry()


@task
async def fetch(url: str, tries: int = 1) -> int:
    return len(url) * tries


@task(name="shrink", queue="cpu", retry=Retry(attempts=2), timeout=3, priority=1)
def shrink(data: bytes, /, *, by: float) -> bytes:
    return data[: int(by)]


@registry.task
def own(*numbers: int, **flags: bool) -> str:
    return f"{numbers}{flags}"


@registry.task(timeout=None)
async def nothing() -> None: ...


async def called() -> None:
    assert_type(await fetch("u"), int)
    _ = assert_type(fetch("u", tries=2), Coroutine[Any, Any, int])
    assert_type(shrink(b"", by=0.5), bytes)
    assert_type(own(1, 2, dry=True), str)
    _ = assert_type(nothing(), Coroutine[Any, Any, None])

    await shrink(b"", by=0.5)  # pyright: ignore[reportGeneralTypeIssues]
    await fetch(5)  # pyright: ignore[reportArgumentType]
    await fetch()  # pyright: ignore[reportCallIssue]
    shrink(b"")  # pyright: ignore[reportCallIssue]
    shrink(data=b"", by=1)  # pyright: ignore[reportCallIssue]
    own("1")  # pyright: ignore[reportArgumentType]


def kinds() -> None:
    a: AsyncTaskFunction[[], None] = nothing
    s: SyncTaskFunction[..., bytes] = shrink
    base: list[TaskFunction[..., object]] = [a, s, fetch, own]
    print(base)

    wrong: SyncTaskFunction[..., Any] = fetch  # pyright: ignore[reportAssignmentType]
    result: TaskFunction[..., str] = fetch  # pyright: ignore[reportAssignmentType]
    print(wrong, result)


async def options() -> None:
    now = datetime.now(UTC)
    assert_type(await fetch.using(delay=1, key="k").using(run_at=now, deadline=now)("u"), int)
    assert_type(shrink.using(queue="io", timeout=1, retry=Retry())(b"", by=1), bytes)

    assert_type(await fetch.using(connection=sqlite3.connect("x"))("u"), int)

    fetch.using("k")  # pyright: ignore[reportCallIssue]
    fetch.using(wait=3)  # pyright: ignore[reportCallIssue]
    fetch.using(delay="3")  # pyright: ignore[reportArgumentType]
    fetch.using(priority=0.5)  # pyright: ignore[reportArgumentType]
    fetch.using(run_at=3)  # pyright: ignore[reportArgumentType]
    fetch.using(retry=3)  # pyright: ignore[reportArgumentType]
    await fetch.using()(5)  # pyright: ignore[reportArgumentType]
    fetch.using().call(5)  # pyright: ignore[reportArgumentType]
    task(connection=None)  # pyright: ignore[reportCallIssue]
    task(retry=3)  # pyright: ignore[reportArgumentType]
    task("name")  # pyright: ignore[reportArgumentType, reportCallIssue]


def calls() -> None:
    assert_type(fetch.call("u"), Call[int])
    assert_type(fetch.using(delay=1).call("u", tries=3), Call[int])
    assert_type(shrink.call(b"", by=1), Call[bytes])
    assert_type(nothing.call(), Call[None])
    anything: list[Call[object]] = [fetch.call("u"), shrink.call(b"", by=1)]
    print(anything)

    fetch.call()  # pyright: ignore[reportCallIssue]
    fetch.call(url=5)  # pyright: ignore[reportArgumentType]
    fetch.call("u", key="k")  # pyright: ignore[reportCallIssue]
    nothing.call(None)  # pyright: ignore[reportCallIssue]
    fetch.call("u").args = ()  # pyright: ignore[reportAttributeAccessIssue]
    wrong: Call[str] = fetch.call("u")  # pyright: ignore[reportAssignmentType]
    print(wrong)


async def enqueued(queue: TaskQueue) -> None:
    assert_type(await queue.enqueue(fetch, "u", tries=2), TaskHandle[int])
    assert_type(await queue.enqueue(shrink.using(delay=1), b"", by=1), TaskHandle[bytes])
    assert_type(await queue.enqueue_many([fetch.call("u")]), list[TaskHandle[int]])

    await queue.enqueue(fetch, 5)  # pyright: ignore[reportArgumentType]
    await queue.enqueue(fetch)  # pyright: ignore[reportCallIssue]
    await queue.enqueue(len, [])  # pyright: ignore[reportArgumentType, reportCallIssue]
    await queue.enqueue_many([fetch])  # pyright: ignore[reportArgumentType]


def looked_up() -> None:
    assert_type(default_registry.get("x"), TaskFunction[..., Any] | None)
    assert_type(list(registry), list[str])

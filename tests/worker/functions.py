"""The task functions of these tests, and what they noted."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import anyio
import anyio.from_thread
import sniffio

from sitq import Registry, Retry, current_task

registry = Registry()
noted: list[Any] = []
gate = threading.Event()


@registry.task(name="echo")
async def echo(value: Any) -> Any:
    return value


@registry.task(name="note")
async def note(value: Any) -> None:
    noted.append(value)


@registry.task(name="add")
def add(a: int, b: int = 1) -> int:
    return a + b


@registry.task(name="fail", retry=Retry(attempts=3, base=0.01, cap=0.02))
async def fail(message: str) -> None:
    noted.append(message)
    raise ValueError(message)


@registry.task(name="fail_once", retry=Retry(attempts=2, base=0.01, cap=0.02))
async def fail_once() -> int:
    attempt = current_task().attempt
    if attempt == 1:
        raise OSError("not yet")
    return attempt


@registry.task(name="sleep")
async def sleep(seconds: float) -> str:
    noted.append("started")
    try:
        await anyio.sleep(seconds)
    except BaseException:
        noted.append("cancelled")
        raise
    return "slept"


running: list[int] = []


@registry.task(name="busy")
async def busy() -> int:
    """How many of these ran at the same time when this one began."""
    running.append(1)
    beside = len(running)
    await anyio.sleep(0.02)
    running.pop()
    return beside


@registry.task(name="slow", timeout=0.05)
async def slow() -> None:
    await anyio.sleep(30)


@registry.task(name="own_timeout")
async def own_timeout() -> None:
    raise TimeoutError("mine")


@registry.task(name="stubborn", timeout=0.05)
async def stubborn() -> str:
    try:
        await anyio.sleep(30)
    except BaseException:
        raise RuntimeError("while cleaning up") from None
    return "never"


@registry.task(name="returns_anyway")
async def returns_anyway() -> str:
    noted.append("started")
    try:
        await anyio.sleep(30)
    except BaseException:
        return "done all the same"
    return "never"


@registry.task(name="blocked")
def blocked() -> str:
    noted.append("started")
    gate.wait(10)
    return "unblocked"


@registry.task(name="waits_for_cancel")
def waits_for_cancel() -> str:
    noted.append("started")
    while not current_task().cancelled:
        time.sleep(0.005)
    raise InterruptedError("told to end")


@registry.task(name="context")
async def context() -> dict[str, Any]:
    return _context()


@registry.task(name="sync_context")
def sync_context() -> dict[str, Any]:
    return _context()


def _context() -> dict[str, Any]:
    task = current_task()
    return {
        "id": task.id,
        "name": task.name,
        "queue": task.queue,
        "attempt": task.attempt,
        "deadline": task.deadline,
        "enqueued_at": task.enqueued_at,
        "cancelled": task.cancelled,
    }


@registry.task(name="effective_deadline", timeout=5)
async def effective_deadline() -> float:
    return anyio.current_effective_deadline() - anyio.current_time()


@registry.task(name="socket")
async def socket() -> object:
    noted.append("ran")
    return object()


class BrokenText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@registry.task(name="raise_it")
async def raise_it(kind: str) -> None:
    _raise(kind)


@registry.task(name="raise_it_in_thread")
def raise_it_in_thread(kind: str) -> None:
    _raise(kind)


def _raise(kind: str) -> None:
    if kind == "cyclic":
        error = ValueError("cyclic")
        error.__cause__ = error.__context__ = KeyError("other")
        error.__cause__.__cause__ = error
        raise error
    errors: dict[str, BaseException] = {
        "value": ValueError("plain"),
        "group": ExceptionGroup(
            "many", [ValueError("a"), ExceptionGroup("inner", [KeyError("b")])]
        ),
        "base_group": BaseExceptionGroup("base", [SystemExit(3), ValueError("c")]),
        "broken": BrokenText(),
        "exit": SystemExit(7),
        "interrupt": KeyboardInterrupt(),
        "generator_exit": GeneratorExit(),
        "huge": ValueError("x" * 1_000_000),
    }
    raise errors[kind]


@registry.task(name="stray")
async def stray() -> None:
    if sniffio.current_async_library() != "asyncio":
        raise ValueError("only asyncio has these")
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def _ticks(stop: list[bool]) -> Any:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 0)
        while not stop:
            yield 1


kept: list[Any] = []


@registry.task(name="breaks_out")
async def breaks_out() -> str:
    ticks = _ticks([])
    kept.append(ticks)
    async for _ in ticks:
        break
    return "out"


@registry.task(name="asks_whether_cancelled", timeout=0.05)
def asks_whether_cancelled() -> None:
    noted.append("started")
    while not current_task().cancelled:
        time.sleep(0.005)
    noted.append("told")


@registry.task(name="checks_cancelled")
def checks_cancelled() -> None:
    noted.append("started")
    while True:
        anyio.from_thread.check_cancelled()
        time.sleep(0.005)


release: list[anyio.Event] = []


@registry.task(name="swallows")
async def swallows() -> str:
    """Ends when it is released, and swallows every cancellation until then."""
    await _swallow()
    return "ended all the same"


@registry.task(name="swallows_its_timeout", timeout=0.02)
async def swallows_its_timeout() -> None:
    await _swallow()
    raise ValueError("too late")


async def _swallow() -> None:
    release.append(anyio.Event())
    noted.append(0)
    while not release[-1].is_set():
        try:
            await release[-1].wait()
        except anyio.get_cancelled_exc_class():
            noted[-1] += 1


@registry.task(name="exits_generator")
def exits_generator() -> None:
    raise GeneratorExit


@registry.task(name="stops_iteration")
def stops_iteration() -> None:
    raise StopIteration


class _Nameless(type):
    def __getattribute__(cls, name: str) -> Any:
        if name == "__qualname__":
            raise SystemExit
        return super().__getattribute__(name)


class Strange(Exception, metaclass=_Nameless):
    pass


@registry.task(name="strange_class")
async def strange_class() -> None:
    raise Strange


@registry.task(name="cancels_itself")
async def cancels_itself() -> None:
    if sniffio.current_async_library() == "asyncio":
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

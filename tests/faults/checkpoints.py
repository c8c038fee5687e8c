"""Cancels an awaitable at its nth checkpoint, in each way in which a caller can be cancelled.

``SITQ_LONG=1`` makes the tests that use this take every combination, which lasts minutes.
"""

from __future__ import annotations

import asyncio
import os
import threading
import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
import pytest
import sniffio
import trio

T = TypeVar("T")

WAYS = [
    ("asyncio", "scope"),
    ("asyncio", "task"),
    ("asyncio", "twice"),
    ("asyncio", "timeout"),
    ("asyncio", "wait_for"),
    ("trio", "scope"),
]
"""Event loop and kind of cancellation: by a scope of anyio, or by asyncio without asking anyio."""
NATURES = [way for way in WAYS if way[1] in ("scope", "task")]
"""Those by which an `Attempt` can be cancelled from outside at any moment, and at once."""
LONG = bool(os.environ.get("SITQ_LONG"))
every_way = pytest.mark.parametrize(("anyio_backend", "kind"), WAYS)
both_natures = pytest.mark.parametrize(("anyio_backend", "kind"), NATURES)
most_ways = every_way if LONG else both_natures

PATIENCE = 30.0
"""Seconds after which a test gives up."""
OVERDUE = 5.0
"""Timeout of `asyncio.wait_for`, in seconds: shorter than every limit of sitq's own."""


class Attempt:
    """One awaitable that is cancelled while it runs.

    Args:
        kind: how, one of `WAYS`.
        start: makes the coroutine.
        at: cancel at this checkpoint of it; 0 before it starts, None only by `cancel`.
    """

    def __init__(
        self, kind: str, start: Callable[[], Coroutine[Any, Any, Any]], at: int | None = None
    ) -> None:
        self.kind = kind
        self.passed = 0
        """Checkpoints so far."""
        self.hit = at == 0
        self.cancelled = False
        self.ended = False
        self.answer: Any = None
        self.error: Exception | None = None
        self.cancel: Callable[[], object] = lambda: None
        self.act: Callable[[], object] = lambda: self.cancel()
        """What is done at that checkpoint."""
        self._start = start
        self._at = at

    async def run(self) -> Attempt:
        """Run to the end, whichever it is. An `Exception` of the awaitable is kept in `error`."""
        with anyio.fail_after(PATIENCE):
            if self.kind == "scope":
                await self._in_scope()
            else:
                await self._in_task()
        self.ended = True
        return self

    async def _in_scope(self) -> None:
        with anyio.CancelScope() as scope:
            self.cancel = scope.cancel
            if self._at == 0:
                scope.cancel()
            await self._kept()
        self.cancelled = scope.cancelled_caught

    async def _in_task(self) -> None:
        ways = {"timeout": self._timed, "wait_for": self._waited_for}
        task = asyncio.create_task(ways.get(self.kind, self._kept)())
        if self.kind in ("task", "twice"):
            self.cancel = task.cancel
            if self._at == 0:
                task.cancel()
        await asyncio.wait([task])
        self.cancelled |= task.cancelled()
        if not task.cancelled():
            await task

    async def _timed(self) -> None:
        try:
            async with asyncio.timeout(0 if self._at == 0 else None) as limit:
                self.cancel = lambda: limit.expired() or limit.reschedule(0)
                await self._kept()
        except TimeoutError:
            self.cancelled = True

    async def _waited_for(self) -> None:
        loop = asyncio.get_running_loop()
        self.cancel = partial(_advance, loop, OVERDUE + 1)
        try:
            await asyncio.wait_for(self._kept(), 0 if self._at == 0 else OVERDUE)
        except TimeoutError:
            self.cancelled = True

    async def _kept(self) -> None:
        try:
            self.answer = await counted(self._start(), self._pass)
        except Exception as error:
            self.error = error

    def _pass(self) -> None:
        self.passed += 1
        again = self.kind == "twice" and self.passed - 1 == self._at
        if self.passed == self._at or (again and self._at):
            self.hit = True
            self.act()


@types.coroutine
def counted(
    coroutine: Coroutine[Any, Any, T], passed: Callable[[], object]
) -> Generator[Any, Any, T]:
    """Drive a coroutine. What it yields to the event loop is a checkpoint: tell of each."""
    step = partial(coroutine.send, None)
    while True:
        try:
            trap = step()
        except StopIteration as end:
            return end.value
        passed()
        try:
            step = partial(coroutine.send, (yield trap))
        except BaseException as error:
            step = partial(coroutine.throw, error)


class Steps:
    """Does something at the nth step that any task makes inside the block, new ones included."""

    def __init__(self, at: int, act: Callable[[], object]) -> None:
        self.made = 0
        self._at = at
        self._act = act

    @contextmanager
    def counted(self) -> Generator[Steps]:
        if sniffio.current_async_library() == "trio":
            instrument = _Instrument(self._pass)
            trio.lowlevel.add_instrument(instrument)
            try:
                yield self
            finally:
                trio.lowlevel.remove_instrument(instrument)
        else:
            loop = asyncio.get_running_loop()
            loop.set_task_factory(self._make_task)
            try:
                yield self
            finally:
                loop.set_task_factory(None)

    @property
    def hit(self) -> bool:
        return self.made >= self._at

    def _pass(self) -> None:
        self.made += 1
        if self.made == self._at:
            self._act()

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        async def stepping() -> Any:
            return await counted(coroutine, self._pass)

        return asyncio.Task(stepping(), loop=loop, **options)


class _Instrument(trio.abc.Instrument):
    def __init__(self, passed: Callable[[], object]) -> None:
        self._passed = passed

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._passed()


def _advance(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Let the timers of an event loop run out that are due within so many seconds."""
    time = loop.time
    loop.time = lambda: time() + seconds  # type: ignore[method-assign]


async def until(condition: Callable[[], bool]) -> None:
    """Let the others run until it holds."""
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.0005)


@asynccontextmanager
async def nothing_leaked() -> AsyncGenerator[None]:
    """What the block opened and started, it closes and ends: tasks, threads, descriptors."""
    before = Census()
    yield
    with anyio.move_on_after(PATIENCE):
        await until(lambda: not Census().beyond(before))
    leaked = Census().beyond(before)
    assert not leaked, f"leaked: {leaked}"


class Census:
    """What a program could leak, counted now."""

    def __init__(self) -> None:
        self._threads = {thread for thread in threading.enumerate() if _is_ours(thread.name)}
        self._descriptors = len(os.listdir("/dev/fd"))
        self._tasks = len(anyio.get_running_tasks())

    def beyond(self, before: Census) -> dict[str, object]:
        """What there is now and was not before."""
        more = {
            "threads": self._threads - before._threads,
            "descriptors": max(0, self._descriptors - before._descriptors),
            "tasks": max(0, self._tasks - before._tasks),
        }
        return {name: these for name, these in more.items() if these}


def _is_ours(name: str) -> bool:
    return name.startswith("sitq") or "_connection_worker_thread" in name

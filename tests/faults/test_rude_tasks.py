"""Tasks that harm the process they run in: the worker, or the one beside it, goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import pytest

from sitq import (
    Registry,
    Retry,
    SQLiteBackend,
    State,
    TaskFunction,
    TaskHandle,
    TaskQueue,
    Worker,
    current_task,
)
from sitq.errors import TaskFailed, UsageError

from ..worker import functions as f
from . import rude
from .checkpoints import PATIENCE, until

pytestmark = pytest.mark.anyio

LOOPS = ("asyncio", "trio")
in_children = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""For tests whose tasks run in other processes, on both loops at the same time."""


@pytest.fixture(autouse=True)
def _clean() -> None:
    f.noted.clear()


@asynccontextmanager
async def child(path: Path, loop: str, *queues: str) -> AsyncGenerator[subprocess.Popen[bytes]]:
    """A worker process. What still runs at the end of the block is stopped, or else killed."""
    command = [sys.executable, "-P", rude.__file__, str(path), loop, *queues]
    with subprocess.Popen(command) as process:
        try:
            yield process
            process.terminate()
            await ended(process)
        finally:
            process.kill()


async def ended(process: subprocess.Popen[bytes]) -> int:
    await until(lambda: process.poll() is not None)
    return process.returncode


@asynccontextmanager
async def pair(path: Path, loop: str) -> AsyncGenerator[TaskQueue]:
    """Two worker processes that serve the queue ``shared``, and each one of its own."""
    async with (
        TaskQueue(SQLiteBackend(path)) as queue,
        child(path, loop, "shared", "first"),
        child(path, loop, "shared", "second"),
    ):
        await until_two_work(queue)
        yield queue


async def until_two_work(queue: TaskQueue) -> set[int]:
    with anyio.fail_after(PATIENCE):
        while len(found := await queue.workers()) != 2:
            await anyio.sleep(0.01)
    return {worker.id for worker in found}


@in_children
async def test_a_blocked_loop_or_interpreter_harms_nobody(quick_folder: Path) -> None:
    async def harm(loop: str) -> None:
        folder = quick_folder / f"{loop}-{uuid4()}"
        folder.mkdir()
        async with pair(folder / "tasks.db", loop) as queue:
            await keep_the_loop(queue, rude.block_loop, str(folder / "blocked"))
            await keep_the_loop(queue, rude.crowd_loop, str(folder / "crowded"))
            await hold_the_interpreter(queue, str(folder / "held"))

    async with anyio.create_task_group() as group:
        for loop in LOOPS:
            group.start_soon(harm, loop)


async def keep_the_loop(queue: TaskQueue, harm: TaskFunction[[str], int], journal: str) -> None:
    """The lease is kept by a thread: the task is run once, by one who keeps its id."""
    before = await until_two_work(queue)
    handle = await queue.enqueue(harm.using(queue="shared"), journal)
    pid = await handle.result(PATIENCE)
    assert rude.runs(journal) == [pid]
    assert await until_two_work(queue) == before


async def hold_the_interpreter(queue: TaskQueue, journal: str) -> None:
    """The lease can be lost: then the other runs the task, and only the other settles it."""
    before = await until_two_work(queue)
    handle = await queue.enqueue(rude.hold_interpreter.using(queue="shared"), journal)
    winner = await handle.result(PATIENCE)
    alive = {await run_in(queue, name) for name in ("first", "second")}
    assert winner in alive
    task, pids = await handle.get(), rude.runs(journal)
    assert task is not None
    assert (task.state, task.attempts) == (State.SUCCEEDED, 0)
    assert pids[-1] == winner
    assert set(pids) <= alive
    if len(pids) > 1:  # else the other was too slow to notice
        assert len(set(pids)) == len(pids) == 2
        assert await until_two_work(queue) != before
    assert await handle.result(PATIENCE) == winner


async def run_in(queue: TaskQueue, name: str) -> int:
    return await (await queue.enqueue(rude.pid.using(queue=name))).result(PATIENCE)


@in_children
async def test_who_ends_its_process_is_run_by_another(quick_folder: Path) -> None:
    path = quick_folder / f"{uuid4()}.db"
    journals = [f"{path}-aborts", f"{path}-leaves"]
    async with (
        TaskQueue(SQLiteBackend(path)) as queue,
        child(path, "asyncio", "aborts") as aborting,
        child(path, "trio", "leaves") as leaving,
    ):
        handles = [
            await queue.enqueue(rude.abort.using(queue="aborts"), journals[0]),
            await queue.enqueue(rude.leave.using(queue="leaves"), journals[1]),
        ]
        assert await ended(aborting) == -signal.SIGABRT
        assert await ended(leaving) == 7
        async with Worker(queue._backend, registry=rude.registry, lease=rude.LEASE):
            assert [await handle.result(PATIENCE) for handle in handles] == ["again"] * 2
    assert [len(rude.runs(journal)) for journal in journals] == [2, 2]


@in_children
async def test_an_exit_below_the_task_fails_it(quick_folder: Path) -> None:
    """asyncio ends the process then, as it does without sitq; what ran beside is given back."""
    path = quick_folder / f"{uuid4()}.db"
    async with TaskQueue(SQLiteBackend(path)) as queue:
        beside = await queue.enqueue(rude.stay)
        below = await queue.enqueue(rude.exit_below)
        async with child(path, "asyncio", "default") as process:
            assert await ended(process) == 9
        with pytest.raises(TaskFailed, match="BaseExceptionGroup"):
            await below.result(0)
        task = await beside.get()
        assert task is not None
        assert (task.state, task.attempts, task.crashes) == (State.PENDING, 0, 0)
        assert await queue.workers() == []


class Rude(BaseException):
    """Nobody catches it by accident."""


class Shy:
    """Cannot even be looked at."""

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise SystemExit

    def __repr__(self) -> str:
        raise SystemExit


def _loop() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


async def _never() -> None:
    """Awaited by nobody."""


async def _yields() -> AsyncGenerator[int]:
    yield 1


UNSTORABLE: dict[str, Callable[[], Any]] = {
    "lock": threading.Lock,
    "function": lambda: _loop,
    "class": lambda: Shy,
    "shy": Shy,
    "exception": lambda: Rude("x"),
    "coroutine": _never,
    "generator": lambda: (n for n in range(3)),
    "async generator": _yields,
    "module": lambda: sys,
    "context": lambda: suppress(ValueError),
    "in itself": _loop,
    "deep": _deep,
    "huge": lambda: "x" * 2_000_000,
    "key": lambda: {(1, threading.Lock): 1},
}
RAISED: dict[str, Callable[[], BaseException]] = {
    "own": lambda: Rude("x"),
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "generator": GeneratorExit,
}
registry = Registry()
sleep = registry.task(name="sleep")(f.sleep.function)
releases: list[anyio.Event] = []
threads: list[threading.Thread] = []
gate = threading.Event()


@registry.task(name="returns", retry=Retry(attempts=5, base=0))
async def returns(kind: str) -> Any:
    f.noted.append(kind)
    return UNSTORABLE[kind]()


@registry.task(name="raises")
async def raises(kind: str) -> None:
    raise RAISED[kind]()


@registry.task(name="raises_in_thread")
def raises_in_thread(kind: str) -> None:
    raise RAISED[kind]()


@registry.task(name="raises_below")
async def raises_below(kind: str) -> None:
    async def below() -> None:
        raise RAISED[kind]()

    async with anyio.create_task_group() as group:
        group.start_soon(below)
        await anyio.sleep_forever()


@registry.task(name="swallows")
async def swallows() -> str:
    releases.append(anyio.Event())
    f.noted.append("started")
    while not releases[-1].is_set():
        with suppress(anyio.get_cancelled_exc_class()):
            await releases[-1].wait()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.001)  # or else the threads of the store hardly get a turn
    return "ended all the same"


@registry.task(name="leaves_threads")
async def leaves_threads() -> str:
    """One of its own, and one of anyio's that it does not wait for."""
    thread = threading.Thread(target=_outlive)
    threads.append(thread)
    thread.start()
    with anyio.move_on_after(0.01):
        await anyio.to_thread.run_sync(_outlive, abandon_on_cancel=True)
    return "gone"


def _outlive() -> None:
    gate.wait(PATIENCE)
    try:
        f.noted.append(current_task().cancelled)
    except UsageError:
        f.noted.append("no task")


@pytest.fixture
async def queue(quick_folder: Path) -> AsyncGenerator[TaskQueue]:
    path = quick_folder / f"{uuid4()}.db"
    async with TaskQueue(SQLiteBackend(path, synchronous="NORMAL")) as queue:
        yield queue


@asynccontextmanager
async def beside_an_innocent(queue: TaskQueue) -> AsyncGenerator[None]:
    """A worker that runs another task all through the block, and runs it once."""
    async with Worker(queue._backend, registry=registry, grace=0):
        other = await queue.enqueue(sleep, 300)
        await until(lambda: f.noted == ["started"])
        yield
        assert await other.status() is State.RUNNING
    await was_given_back(other)
    assert f.noted.count("started") == 1


async def was_given_back(handle: TaskHandle[Any]) -> None:
    task = await handle.get()
    assert task is not None
    assert (task.state, task.attempts, task.crashes) == (State.PENDING, 0, 0)


async def error_of(queue: TaskQueue, handle: TaskHandle[Any]) -> str:
    """The type of the error by which it failed."""
    result = await queue.get_result(handle, PATIENCE)
    assert result is not None
    assert result.error is not None
    return result.error.type


async def test_what_cannot_be_stored_is_a_failure_at_once(queue: TaskQueue) -> None:
    async with beside_an_innocent(queue):
        for kind in UNSTORABLE:
            handle = await queue.enqueue(returns, kind)
            assert await error_of(queue, handle) == "sitq.errors.NotSerializable", kind
            assert f.noted.count(kind) == 1


@pytest.mark.parametrize("function", [raises, raises_in_thread, raises_below])
async def test_whatever_is_raised_is_a_failure(
    queue: TaskQueue, function: TaskFunction[[str], None], anyio_backend: str
) -> None:
    ends_asyncio = {"exit", "interrupt"} if function is raises_below else set[str]()
    async with beside_an_innocent(queue):
        for kind, make in RAISED.items():
            if anyio_backend == "trio" or kind not in ends_asyncio:
                error = await error_of(queue, await queue.enqueue(function, kind))
                expected = BaseExceptionGroup if function is raises_below else type(make())
                assert error.endswith(expected.__name__)


async def test_threads_that_outlive_their_task(queue: TaskQueue) -> None:
    gate.clear()
    threads.clear()
    try:
        async with beside_an_innocent(queue):
            assert await (await queue.enqueue(leaves_threads)).result(PATIENCE) == "gone"
        assert [thread.is_alive() for thread in threads] == [True]  # the stop did not wait for it
    finally:
        gate.set()
    threads[0].join(PATIENCE)
    await until(lambda: len(f.noted) == 4)
    # anyio gives its threads the context of the task, and that task is over.
    assert sorted(map(str, f.noted)) == ["False", "cancelled", "no task", "started"]


async def test_others_go_back_while_one_does_not_end(queue: TaskQueue) -> None:
    worker = Worker(queue._backend, registry=registry, grace=0.01)
    await worker.start()
    stubborn = await queue.enqueue(swallows)
    others = await queue.enqueue_many([sleep.call(300) for _ in range(3)])
    await until(lambda: f.noted == ["started"] * 4)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.stop)
        with anyio.fail_after(PATIENCE):
            while (await queue.counts())[State.PENDING] != 3:
                await anyio.sleep(0.001)
        assert await stubborn.status() is State.RUNNING
        releases[-1].set()
    assert await stubborn.result(0) == "ended all the same"
    for handle in others:
        await was_given_back(handle)

"""Who is about in a simulated queue: callers, workers that come and go, and the weather."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import anyio
import trio

from sitq import Call, Registry, Worker
from sitq.errors import KeyTaken, StoreError, TaskCancelled, TaskFailed, TaskNotFound, WrongState

from .functions import everybody, known
from .line import Line
from .world import CRASH_LIMIT, LEASE, UNKNOWN_AFTER, World

__all__ = ["call", "employ", "new_worker", "storm"]


# Callers.


async def call(world: World) -> None:
    """Somebody who enqueues, waits, cancels, retries and purges."""
    rng = world.rng
    doings = (_enqueue, _wait, _cancel, _retry, _look, _purge)
    async with anyio.create_task_group() as group:
        for _ in range(rng.randint(2, 6)):
            await trio.sleep(rng.expovariate(0.3))
            (do,) = rng.choices(doings, (8, 5, 4, 3, 1, 2))
            group.start_soon(_impatiently, world, do)


async def _impatiently(world: World, do: Callable[[World], Awaitable[None]]) -> None:
    """Do something; the store may not answer, and now and then it takes too long."""
    patience = world.rng.choice((None, None, 0.0, 0.3, 10.0))
    with trio.move_on_after(float("inf") if patience is None else patience), suppress(StoreError):
        await do(world)


async def _enqueue(world: World) -> None:
    calls = [_any_call(world) for _ in range(world.rng.choice((1, 1, 1, 2, 4)))]
    await world.enqueue(*calls)


def _any_call(world: World) -> Call[Any]:
    rng = world.rng
    name, args = rng.choice(
        (
            ("succeed", ()),
            ("sleep", (rng.choice((rng.uniform(0.0, 8.0), rng.uniform(LEASE, 2 * LEASE))),)),
            ("fail", ()),
            ("recover", (rng.randint(2, 3),)),
            ("leave", (rng.choice(("exit", "interrupt", "other")),)),
            ("linger", (rng.uniform(0.0, 5.0), rng.random() < 0.5)),
            ("block", ()),
            ("go_on", ()),
            ("cancel_itself", (rng.choice(("fail", "sleep", "return")),)),
            ("spread", (rng.randint(1, 3),)),
            ("family", _family(world, 0)),
            ("family", _family(world, 1)),
            ("strange", ()),
        )
    )
    function = everybody.get(name)
    assert function is not None
    now = world.clock.time()
    return function.using(
        priority=rng.randint(-2, 2),
        delay=rng.choice((None, None, rng.uniform(0.0, 10.0))),
        timeout=rng.choice((None, None, rng.uniform(0.1, 5.0))),
        deadline=rng.choice((None, None, None, _moment(now + rng.uniform(0.1, 30.0)))),
        key=rng.choice((None, None, None, rng.choice("abc"))),
        queue=rng.choice(("default", "default", "mail")),
    ).call(*args)


def _family(world: World, depth: int) -> tuple[list[Any], str]:
    """Children, some with children of their own, and what their parent does meanwhile."""
    rng = world.rng
    litter = [_child(world, depth) for _ in range(rng.randint(0, 4))]
    ways = ("wait", "wait", "as completed", "one by one", "cancel", "raise")
    return litter, rng.choice(ways)


def _child(world: World, depth: int) -> list[Any]:
    rng = world.rng
    kind = rng.choice(("succeed", "succeed", "sleep", "recover", "fail", "linger", "family"))
    match kind:
        case "sleep":
            return [kind, [rng.uniform(0.0, LEASE)]]
        case "recover":
            return [kind, [2]]
        case "fail" if rng.random() < 0.3:
            return [kind, []]
        case "linger" if rng.random() < 0.3:
            return [kind, [rng.uniform(0.0, 2.0), True]]
        case "family" if depth:
            return [kind, [*_family(world, depth - 1)]]
        case _:
            return ["succeed", []]


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


async def _wait(world: World) -> None:
    if not world.handles:
        return
    handle = world.rng.choice(world.handles)
    with suppress(TimeoutError, TaskFailed, TaskCancelled, TaskNotFound):
        await handle.result(world.rng.choice((1.0, 20.0, 60.0)))
    result = await world.queue.get_result(handle)
    if result is not None:
        world.answers.append(result)


async def _cancel(world: World) -> None:
    if world.handles:
        with suppress(TaskNotFound):
            await world.rng.choice(world.handles[-5:]).cancel()


async def _retry(world: World) -> None:
    if world.handles:
        handle = world.rng.choice(world.handles[-8:])
        world.revived[handle.id.bytes] += 1  # it may be done though no answer comes
        with suppress(TaskNotFound, WrongState, KeyTaken):
            await world.queue.retry(handle)


async def _look(world: World) -> None:
    counts = await world.queue.counts()
    tasks = await world.queue.find(limit=10)
    world.demand(len(tasks) <= max(10, sum(counts.values())), "more tasks than there are")


async def _purge(world: World) -> None:
    await world.queue.purge(older_than=world.rng.choice((0.0, 0.0, 3.0)))


# Workers.


def new_worker(world: World, line: Line, registry: Registry, slots: int) -> Worker:
    return Worker(
        line,  # type: ignore[arg-type]
        registry=registry,
        max_concurrency=slots,
        poll_interval=world.poll_interval,
        grace=world.rng.choice((0.0, 2.0)),
        lease=LEASE,
        crash_limit=CRASH_LIMIT,
        retention=world.rng.choice((None, None, 600.0)),
        unknown_after=UNKNOWN_AFTER,
    )


async def employ(world: World, place: int) -> None:
    """A post: one worker after the other, until evening."""
    rng = world.rng
    turn = 0
    while not world.evening.is_set():
        turn += 1
        line = world.new_line(f"worker {place}.{turn}")
        worker = new_worker(world, line, rng.choice((known, everybody)), rng.randint(1, 4))
        way = rng.choice((_beside, _as_child, _in_background))
        await _work(world, line, worker, way)
        with trio.move_on_after(rng.uniform(0.0, 2 * LEASE)):
            await world.evening.wait()


Way = Callable[[Worker, anyio.Event], Awaitable[None]]


async def _work(world: World, line: Line, worker: Worker, way: Way) -> None:
    """Let it work for a while; then it stops, is cancelled, or dies without a word."""
    leaving = anyio.Event()
    with _may_break(world, line):
        async with anyio.create_task_group() as group:
            group.start_soon(_send_away, world, line, leaving, group.cancel_scope)
            await way(worker, leaving)
            group.cancel_scope.cancel()
    world.note(line.name, "has left")


async def _send_away(
    world: World, line: Line, leaving: anyio.Event, scope: anyio.CancelScope
) -> None:
    rng = world.rng
    end = rng.choice(("stop", "cancel", "die", "die", "stop and die"))
    with trio.move_on_after(rng.uniform(0.0, 25.0)):
        await world.evening.wait()
    world.note(line.name, "is to", end)
    if end in ("stop", "stop and die"):
        leaving.set()
    if end == "stop and die":
        await trio.sleep(rng.uniform(0.0, 1.0))
    if end in ("die", "stop and die"):
        line.cut()
    if end in ("cancel", "die"):
        scope.cancel()


async def _beside(worker: Worker, leaving: anyio.Event) -> None:
    async with worker:
        await leaving.wait()


async def _as_child(worker: Worker, leaving: anyio.Event) -> None:
    async def stop() -> None:
        await leaving.wait()
        await worker.stop()

    async with anyio.create_task_group() as group:
        group.start_soon(stop)
        await worker.run()
        group.cancel_scope.cancel()


async def _in_background(worker: Worker, leaving: anyio.Event) -> None:
    try:
        await worker.start()
        await leaving.wait()
    finally:
        with anyio.CancelScope(shield=True):
            await worker.stop()


@contextmanager
def _may_break(world: World, line: Line) -> Iterator[None]:
    """A worker breaks only if the store was out of reach."""
    try:
        yield
    except BaseException as error:
        leaves = list(_leaves(error))
        if not all(isinstance(leaf, StoreError) for leaf in leaves):
            raise
        world.note(line.name, "broke:", *leaves)
        world.demand(line.was_troubled(0.0, trio.current_time()), "a worker broke for no reason")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    else:
        yield error


# The weather.


async def storm(world: World) -> None:
    """What happens to everybody: the store stands still, lines fail, the wall clock is set."""
    rng = world.rng
    kinds = ("stall", "block", "jump", "open", *(("lose",) if world.is_lossy else ()))
    async with anyio.create_task_group() as group:
        for _ in range(rng.randint(0, 6)):
            await trio.sleep(rng.uniform(0.0, 8.0))
            line = rng.choice((world.line, rng.choice(world.lines), world.lines[-1]))
            match rng.choice(kinds):
                case "stall":
                    seconds = rng.uniform(0.1, 2 * LEASE)
                    world.pace.stalled_until = trio.current_time() + seconds
                    world.note("the store stands still for", f"{seconds:.3f}")
                case "block":
                    line.block(rng.choice((rng.uniform(0.1, LEASE), rng.uniform(1.2, 3) * LEASE)))
                case "lose":
                    group.start_soon(line.lose, rng.uniform(0.1, 0.9), rng.uniform(1.0, 15.0))
                case "jump":
                    world.clock.jumped += rng.uniform(-15.0, 15.0)
                case _:
                    world.gate.set()
                    world.gate = anyio.Event()
    world.gate.set()  # for good: callers may wait for what waits there

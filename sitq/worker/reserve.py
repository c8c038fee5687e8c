"""Waits for work and fills the free slots."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
from anyio import WouldBlock
from anyio.abc import TaskGroup

from sitq.backends.base import Wanted
from sitq.errors import StoreUnavailable
from sitq.serialization import max_bytes
from sitq.worker.run import Run, perform
from sitq.worker.shift import Shift
from sitq.worker.slot import Slot

__all__ = ["reserve", "run_one"]

MAX_BATCH = 1_000
MAX_UNKNOWN = 1_000
"""Names that are left out of what is asked for: each question names them all."""


Runner = Callable[[Shift, Run, Slot], Coroutine[Any, Any, None]]


async def reserve(shift: Shift, runs: TaskGroup, runner: Runner) -> None:
    """Reserve tasks and start a ``runner`` for each, until the worker is to stop."""
    while not shift.is_stopping():
        slots: list[Slot] = []
        with shift.stop.interruptible():
            await _borrow(shift, slots)
        token = shift.backend.token()
        suspect = not shift.holds_suspect()
        due = None
        if slots and not shift.is_stopping():
            due = await _reserve(shift, len(slots), suspect=suspect)
        full = len(shift.fresh) == len(slots)
        for run in shift.fresh:
            _start(shift, runs, runner, run, slots.pop())
        shift.fresh.clear()
        for slot in slots:
            slot.give_back()
        refused = not suspect and not shift.holds_suspect()  # one that could come by now
        if not full and not refused and not shift.is_stopping():
            with shift.stop.interruptible():
                await _wait(shift, token, due)


async def _borrow(shift: Shift, slots: list[Slot]) -> None:
    """Wait for a free slot, and take the others that are free too.

    Runs that have waited and go on come first: what was begun is finished before more is begun.
    """
    slot = Slot(shift.slots)
    slots.append(slot)
    await slot.take()
    while shift.slots.statistics().tasks_waiting:
        slot.give_back()
        await slot.take()
    with suppress(WouldBlock):
        while len(slots) < MAX_BATCH:
            slot = Slot(shift.slots)
            slot.take_nowait()
            slots.append(slot)


async def _reserve(shift: Shift, limit: int, *, suspect: bool) -> float | None:
    """Reserve up to ``limit`` tasks. Returns when the next one is due."""
    shift.unknown = {name for name in shift.unknown if shift.registry.get(name) is None}
    wanted = Wanted(
        limit,
        shift.options.queues,
        tuple(sorted(shift.unknown)),
        suspect,
        max_bytes(shift.serializer),
    )
    try:
        with shift.stop.interruptible() as wait:
            # Only a stop leaves it, and gives back what comes later: all else waits and starts it.
            wait.shield = True
            return await shift.backend.reserve(shift.worker, wanted, shift.receive)
    except StoreUnavailable as error:
        shift.log(logging.WARNING, "cannot reserve for now", error=error)
    return None


def _start(shift: Shift, runs: TaskGroup, runner: Runner, run: Run, slot: Slot) -> None:
    name = run.task.name
    if run.function is None and name not in shift.unknown and len(shift.unknown) < MAX_UNKNOWN:
        shift.unknown.add(name)
        shift.log(
            logging.WARNING,
            "unknown task function: left to workers that import its module",
            name=name,
        )
    shift.running += 1
    run.handle = runs.create_task(runner(shift, run, slot), name=name)


async def run_one(shift: Shift, run: Run, slot: Slot) -> None:
    """Run one task and give its slot back."""
    run.slot = slot
    try:
        await perform(run, shift.serializer, shift.threads, shift.now)
    finally:
        shift.running -= 1
        slot.end()
        shift.end(run)
        if not shift.running:
            shift.nothing_runs.set()
    if shift.loop.is_cancelled():
        await shift.loop.swallow_cancellation()


async def _wait(shift: Shift, token: int, due: float | None) -> None:
    """Wait for a change, the end of a suspect, the next due time, the fallback interval."""
    pause = shift.options.poll_interval
    if due is not None:
        pause = min(pause, max(0.0, due - await shift.now()))
    with anyio.move_on_after(pause) as shift.waiting:
        try:
            await shift.backend.changed(token)
        except StoreUnavailable:
            await anyio.sleep(pause)

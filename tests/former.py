"""A store as an earlier version of sitq has left it, with tasks in every state."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest

from sitq import lifecycle
from sitq.backends.base import Backend, Wanted
from sitq.backends.postgres import migrate as postgres
from sitq.backends.sqlite import migrate as sqlite
from sitq.model import (
    NewChild,
    NewGroup,
    NewTask,
    Outcome,
    OutcomeKind,
    Reservation,
    State,
    WorkerRecord,
)
from sitq.retry import NO_RETRY

__all__ = ["EACH", "fill", "first_version"]

EACH = 6
"""Tasks in each state."""
BIG = bytes(5_000)
ENDS = {
    State.SUCCEEDED: Outcome(OutcomeKind.SUCCEEDED, value=BIG),
    State.FAILED: Outcome(OutcomeKind.FAILED, error=BIG),
}


@contextmanager
def first_version() -> Iterator[None]:
    """What is made here has the first version of the tables, which the verbs of `fill` do with."""
    with pytest.MonkeyPatch.context() as patch:
        for ladder in (sqlite, postgres):
            patch.setattr(ladder, "RUNGS", ladder.RUNGS[:1])
        yield


async def fill(backend: Backend) -> dict[bytes, State]:
    """Store `EACH` tasks in each state, one with a child. Returns the states by id."""
    now = await backend.now()
    states = {uuid4().bytes: state for state in State for _ in range(EACH)}
    await backend.insert([_task(id, state, now) for id, state in states.items()])
    worker = await backend.hire(WorkerRecord("here", 1, None, 99, 86_400.0))
    held = await _taken(backend, worker)
    for state, end in ENDS.items():
        runs = [run for run in held if run.queue == state]
        changes = [
            lifecycle.settle(run, NO_RETRY, end, now, random.Random(0), cancel_requested=False)
            for run in runs
        ]
        assert all(changes)
        await backend.settle(worker, [change for change in changes if change is not None])
    for id, state in states.items():
        if state is State.CANCELLED:
            await backend.cancel(id)
    run = next(run for run in held if run.queue == State.RUNNING)
    group = await backend.open_group(NewGroup(run.seq, run.fence, run.epoch, 0))
    child = uuid4().bytes
    await backend.insert_children(group, [NewChild(_task(child, State.PENDING, now), "c", b"")])
    return states | {child: State.PENDING}


async def _taken(backend: Backend, worker: int) -> list[Reservation]:
    held: list[Reservation] = []
    queues = (State.RUNNING, *ENDS)
    await backend.reserve(worker, Wanted(len(queues) * EACH, queues), held.extend)
    return held


def _task(id: bytes, state: State, now: float) -> NewTask:
    return NewTask(
        id, "nothing", str(state), 0, now, None, None, None, None, arguments=BIG, enqueued=now
    )

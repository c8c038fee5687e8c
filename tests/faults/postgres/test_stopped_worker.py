"""A worker that stood still for longer than its lease settles nothing of it, and begins anew."""

from __future__ import annotations

import signal
from functools import partial

import anyio

from sitq import TaskQueue

from ...postgres import backend_at, server_url
from .load import load
from .program import leaf, slow

TASKS = 5


async def enqueue(function: object, schema: str) -> None:
    async with TaskQueue(backend_at(schema)) as queue:
        for number in range(TASKS):
            await queue.enqueue(function, f"{function.name}.{number}")  # type: ignore[attr-defined]


def test_a_stopped_worker_settles_nothing(schema: str) -> None:
    with load(server_url(), schema, lease=0.6) as processes:
        anyio.run(partial(enqueue, slow, schema))
        old = processes.hire()
        processes.wait_for("ran", TASKS)
        old.send_signal(signal.SIGSTOP)
        new = processes.hire()
        processes.wait_for("ran", 2 * TASKS)
        old.send_signal(signal.SIGCONT)
        processes.wait_for("logged lease lost: its tasks were given back", 1)
        new.send_signal(signal.SIGSTOP)  # now the old one is alone, under a new lease
        anyio.run(partial(enqueue, leaf, schema))
        processes.wait_for("ran leaf", TASKS)
        new.send_signal(signal.SIGCONT)
        figures = processes.end()
    assert (figures.settled, figures.twice_settled, figures.unfinished) == (2 * TASKS, 0, 0)
    assert (figures.same_fence, figures.wrong, figures.workers) == (0, [], 0)

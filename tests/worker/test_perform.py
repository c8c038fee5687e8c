"""One run by itself, where the worker's task group ends around it."""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio
import pytest
from anyio import CancelScope, CapacityLimiter

from sitq import Registry
from sitq.model import OutcomeKind, Reservation
from sitq.serialization import default_serializer, pack_arguments
from sitq.worker.run import Cause, Run, perform

pytestmark = pytest.mark.anyio

registry = Registry()
unwinding: list[anyio.Event] = []


@registry.task(name="unwinds_slowly", timeout=0.01)
async def unwinds_slowly() -> None:
    try:
        await anyio.sleep_forever()
    finally:
        with CancelScope(shield=True):
            await unwinding[0].wait()


class Host:
    """The worker of these runs."""

    place = "nowhere"

    def __init__(self) -> None:
        self.is_closing: Callable[[], bool] = lambda: False

    def rests(self, run: Run) -> None:
        raise AssertionError("nothing waits here")


async def no_time() -> float:
    raise AssertionError("it has no deadline")


async def test_a_group_that_ends_during_a_timeout_gives_back() -> None:
    unwinding[:] = [anyio.Event()]
    arguments = pack_arguments(default_serializer, (), {}, "nothing")
    task = Reservation(
        1,
        bytes(16),
        "unwinds_slowly",
        "q",
        0,
        1,
        0,
        0,
        0,
        0.0,
        None,
        None,
        None,
        arguments,
        0,
        None,
    )
    host = Host()
    run = Run(task, registry.get(task.name), CancelScope(), host)
    threads = CapacityLimiter(math.inf)
    async with anyio.create_task_group() as group:
        host.is_closing = lambda: group.cancel_scope.cancel_called
        run.handle = group.create_task(perform(run, default_serializer, threads, no_time))
        with anyio.fail_after(5):
            while not run.timed_out():
                await anyio.sleep(0.001)
        run.stop(Cause.SHUTDOWN)
        assert run.cause is Cause.TIMEOUT
        group.cancel_scope.cancel()
        unwinding[0].set()
    assert run.outcome is not None
    assert run.outcome.kind is OutcomeKind.RELEASED

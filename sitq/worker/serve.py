"""Serves one shift: the task group of a running worker, opened, wound down, and left clean."""

from __future__ import annotations

import logging
import signal
from typing import cast

import anyio
from anyio import create_task_group, get_cancelled_exc_class, to_thread

from sitq.errors import StoreError, StoreUnavailable
from sitq.failure import describe, summary
from sitq.lease import Heartbeat, start_beats
from sitq.worker.reserve import reserve, run_one
from sitq.worker.run import Cause
from sitq.worker.settle import settle, settle_all
from sitq.worker.shift import Shift
from sitq.worker.signals import end_process
from sitq.worker.telling import tell
from sitq.worker.upkeep import prune, sweep, trim, watch_cancels

__all__ = ["serve"]

SETTLE_LIMIT = 10.0
"""Seconds for which a worker that stops goes on trying to settle while the store is unavailable."""
REOPEN_PAUSE = 0.1
ENDS_NOTICE = 10.0
"""Seconds after which a stop says that it still waits for tasks."""
HURRIED_LIMIT = 2.0
"""Seconds for which tasks are waited for that a second signal has cancelled."""


async def serve(shift: Shift) -> None:
    """Reserve, run and settle until the worker is to stop, and leave nothing behind."""
    heartbeat = start_beats(
        shift.backend,
        shift.worker,
        shift.options.lease,
        shift.loop,
        lambda: shift.loop.call(shift.lose_lease),
    )
    try:
        while not shift.is_stopping():
            await _serve_group(shift)
        await _leave(shift, heartbeat)
    except get_cancelled_exc_class():
        # Only native cancellation walks through the shield: `asyncio.run` ends so.
        shift.stop.request(Cause.HOST_CANCELLED, 0.0)
        await _leave(shift, heartbeat)
        raise
    finally:
        await _end_beats(shift, heartbeat)


async def _leave(shift: Shift, heartbeat: Heartbeat | None) -> None:
    """Settle what is left, and end the lease. What cannot be settled goes back when it lapses."""
    await _settle_rest(shift)
    while not shift.held:
        await _end_beats(shift, heartbeat)  # a later one would take the lease for lost
        try:
            await shift.backend.dismiss(shift.worker)
        except StoreUnavailable as error:
            shift.log(logging.WARNING, "could not end the lease: left to lapse", error=error)
            return
        if not shift.held:
            return
        await _settle_rest(shift)  # what a reserve has brought that was cancelled natively


async def _serve_group(shift: Shift) -> None:
    """One task group, to its end. A function can break it; then what is left goes back."""
    if not await _run_group(shift) and not shift.is_stopping():
        await _settle_rest(shift)
        shift.renew()
        await anyio.sleep(REOPEN_PAUSE)


async def _run_group(shift: Shift) -> bool:
    """Whether the group ended when it was to end."""
    is_host_cancelled = shift.loop.cancelled_natively()
    reason = "it was cancelled"
    try:
        async with create_task_group() as group:
            shift.is_closing = lambda: group.cancel_scope.cancel_called or is_host_cancelled()
            for duty in (settle, sweep, prune, watch_cancels, tell, trim):
                group.start_soon(shift.loop.protected(duty), shift)
            await reserve(shift, group, shift.loop.protected(run_one))
            await _wind_down(shift)
            reason = ""
            group.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        store = _first_store_error(errors)
        if store is not None:
            raise store from None
        if errors.subgroup(KeyboardInterrupt):
            # trio has raised it between two functions of a task: once more, for the main task.
            signal.raise_signal(signal.SIGINT)
        reason = summary(describe(errors.exceptions[0]))
    if reason:
        shift.log(logging.ERROR, "task group broke: opened again", error=reason)
    return not reason


async def _wind_down(shift: Shift) -> None:
    """Give running tasks their grace, cancel the rest, and settle what has ended."""
    shift.stop_resting(shift.stop.cause or Cause.LEASE_LOST)
    with shift.stop.grace():
        await shift.all_ended()
    shift.stop_runs(shift.stop.cause or Cause.LEASE_LOST)
    await _until_all_ended(shift)
    shift.closed = True
    shift.something_ended.set()
    with anyio.move_on_after(SETTLE_LIMIT):
        await shift.all_settled.wait()
    if shift.running and shift.stop.signal is not None:
        shift.log(logging.ERROR, "left to the lease: tasks that do not end", tasks=shift.running)
        end_process(shift.stop.signal)


async def _until_all_ended(shift: Shift) -> None:
    """Wait for what was cancelled; after a signal to hurry not for long."""
    while shift.running:
        hurried = shift.stop.signal is not None
        with shift.stop.interruptible() as wait:
            wait.deadline = anyio.current_time() + (HURRIED_LIMIT if hurried else ENDS_NOTICE)
            await shift.all_ended()
        if shift.running and hurried:
            return
        if wait.cancelled_caught:
            shift.log(logging.WARNING, "still waits for tasks that do not end", tasks=shift.running)


async def _settle_rest(shift: Shift) -> None:
    """Nothing runs any more: what is still held is settled, or goes back."""
    with anyio.move_on_after(SETTLE_LIMIT) as limit:
        while shift.held:
            shift.give_back()
            await settle_all(shift)
    if limit.cancelled_caught:
        shift.log(logging.ERROR, "could not settle: left to the lease", tasks=len(shift.held))


async def _end_beats(shift: Shift, heartbeat: Heartbeat | None) -> None:
    if heartbeat is not None:
        await to_thread.run_sync(heartbeat.stop, limiter=shift.threads)


def _first_store_error(errors: BaseExceptionGroup[BaseException]) -> StoreError | None:
    for error in errors.exceptions:
        if isinstance(error, StoreError):
            return error
        if isinstance(error, BaseExceptionGroup):
            found = _first_store_error(cast("BaseExceptionGroup[BaseException]", error))
            if found is not None:
                return found
    return None

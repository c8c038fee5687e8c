"""What a worker does beside running tasks: sweeps for lost and expired ones, looks for cancels."""

from __future__ import annotations

import logging

import anyio

from sitq.backends.base import Filter, Sweep
from sitq.clock import to_microsecond
from sitq.errors import StoreUnavailable
from sitq.worker.processes import IDLE_LIMIT
from sitq.worker.run import Cause
from sitq.worker.shift import Shift

__all__ = ["prune", "sweep", "trim", "watch_cancels"]

PRUNE_BATCH = 500
CANCEL_SPACING = 0.02
"""Seconds between two looks for cancelled tasks while there are many changes."""


async def sweep(shift: Shift) -> None:
    """Three times a lease: report what is stuck, take back what dead workers held, fail what cannot
    run.
    """
    while True:
        # From beat to beat: a sweep that was held up is followed by the next at once.
        next_beat = anyio.current_time() + shift.options.lease / 3
        try:
            await _recover(shift)
        except StoreUnavailable as error:
            shift.log(logging.WARNING, "cannot sweep for now", error=error)
        await anyio.sleep_until(next_beat)


async def prune(shift: Shift) -> None:
    """As often, delete what ended too long ago; beside the sweep, which must never come late: where
    there is no heartbeat it renews the lease.
    """
    while shift.options.retention is not None:
        try:
            await _prune(shift, shift.options.retention)
        except StoreUnavailable as error:
            shift.log(logging.WARNING, "cannot prune for now", error=error)
        await anyio.sleep(shift.options.lease / 3)


async def trim(shift: Shift) -> None:
    """End processes that have had nothing to run for long."""
    while True:
        await anyio.sleep(IDLE_LIMIT / 4)
        await shift.processes.trim()


async def watch_cancels(shift: Shift) -> None:
    """Cancel the runs that somebody asked to cancel."""
    while True:
        token = shift.backend.token()
        try:
            if shift.held:
                before = dict(shift.held)  # it may hold one for another run when the answer comes
                for seq in await shift.backend.cancelled(shift.worker, shift.children()):
                    run = shift.held.get(seq)
                    if run is not None and run is before.get(seq):
                        run.stop(Cause.CANCEL)
            await anyio.sleep(CANCEL_SPACING)
            await shift.backend.changed(token)
        except StoreUnavailable:
            await anyio.sleep(shift.options.poll_interval)


async def _recover(shift: Shift) -> None:
    options = shift.options
    rules = Sweep(
        options.crash_limit,
        options.unknown_after,
        known=tuple(shift.registry),
        unknown=tuple(shift.unknown),
        queues=options.queues,
        stuck=shift.count_stuck(),
    )
    more = True
    while more:
        found = await shift.backend.recover(shift.worker, rules)
        if found.crashed:
            shift.log(logging.WARNING, "taken from dead workers", tasks=len(found.crashed))
        if found.settled:
            shift.log(logging.WARNING, "failed: not run in time", tasks=len(found.settled))
        if not found.lease_held:
            shift.lose_lease()
        more = bool(found.settled) and found.lease_held


async def _prune(shift: Shift, retention: float) -> None:
    before = to_microsecond(await shift.backend.now() - retention)
    last: int | None = 0
    while last is not None:
        _, last = await shift.backend.prune(
            Filter(), ended_before=before, limit=PRUNE_BATCH, after=last
        )

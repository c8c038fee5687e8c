"""Brings outcomes home, in batches as they come."""

from __future__ import annotations

import logging

import anyio

from sitq.errors import StoreUnavailable
from sitq.lifecycle import settle as decide
from sitq.model import Change, Outcome, OutcomeKind
from sitq.worker.run import Run
from sitq.worker.shift import Shift, logger

__all__ = ["settle", "settle_all"]

MAX_BATCH = 1_000
MAX_BYTES = 4 * 1024 * 1024
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0


async def settle(shift: Shift) -> None:
    """Settle whatever ends, until nothing runs any more."""
    while not (shift.closed and not shift.ended):
        await shift.something_ended.wait()
        await settle_all(shift)
    shift.all_settled.set()


async def settle_all(shift: Shift) -> None:
    """Settle all that has ended, and go on trying while the store is unavailable."""
    pause = FIRST_PAUSE
    while shift.ended:
        batch = _next_batch(shift)
        try:
            await _settle_batch(shift, batch)
        except StoreUnavailable as error:
            shift.log(logging.WARNING, "cannot settle for now", tasks=len(batch), error=error)
            await anyio.sleep(pause * shift.rng.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            pause = FIRST_PAUSE
    shift.something_ended = anyio.Event()


def _next_batch(shift: Shift) -> list[Run]:
    batch: list[Run] = []
    size = 0
    for run in shift.ended:
        outcome = run.outcome
        assert outcome is not None
        size += len(outcome.value or outcome.error or b"")
        if batch and (len(batch) == MAX_BATCH or size > MAX_BYTES):
            break
        batch.append(run)
    return batch


async def _settle_batch(shift: Shift, batch: list[Run]) -> None:
    settled = await _apply(shift, batch, cancel_requested=False)
    refused = [run for run in batch if run.task.seq not in settled]
    _finish(shift, [run for run in batch if run.task.seq in settled])
    if refused:
        # A task that is to be cancelled does not go back: it is decided again, with that known.
        cancelled = await shift.backend.cancelled(shift.worker)
        again = [run for run in refused if run.task.seq in cancelled]
        settled = await _apply(shift, again, cancel_requested=True)
        _finish(shift, [run for run in again if run.task.seq in settled])
        _finish(shift, [run for run in refused if run.task.seq not in settled], stale=True)


def _finish(shift: Shift, runs: list[Run], *, stale: bool = False) -> None:
    for run in runs:
        shift.let_go(run)
        _log(shift, run, stale=stale)


async def _apply(shift: Shift, batch: list[Run], *, cancel_requested: bool) -> set[int]:
    now = shift.backend.clock.time()
    changes: list[Change] = []
    for run in batch:
        assert run.outcome is not None
        change = decide(
            run.task, run.retry, run.outcome, now, shift.rng, cancel_requested=cancel_requested
        )
        if change is not None:
            changes.append(change)
    if not changes:
        return set()
    return await shift.backend.settle(shift.worker, changes)


def _log(shift: Shift, run: Run, *, stale: bool) -> None:
    outcome = run.outcome
    if stale and outcome is not None:
        shift.log(logging.WARNING, "lease lost: outcome dropped", **_about(run, outcome))
    elif outcome is not None and outcome.kind in (OutcomeKind.FAILED, OutcomeKind.TIMED_OUT):
        shift.log(logging.ERROR, "run failed", **_about(run, outcome))
    elif outcome is not None and logger.isEnabledFor(logging.DEBUG):
        shift.log(logging.DEBUG, "run ended", **_about(run, outcome))


def _about(run: Run, outcome: Outcome) -> dict[str, object]:
    return {
        "task": run.task.id.hex(),
        "name": run.task.name,
        "attempt": run.task.attempts + 1,
        "outcome": outcome.kind,
    }

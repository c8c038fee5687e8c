"""Brings outcomes home, in batches as they come."""

from __future__ import annotations

import logging

import anyio

from sitq.errors import StoreUnavailable
from sitq.failure import unpack_error
from sitq.lifecycle import settle as decide
from sitq.model import Change, State
from sitq.worker.run import Cause, Run
from sitq.worker.shift import Shift, logger
from sitq.worker.telling import tell_last

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
    if shift.told or shift.telling:
        await tell_last(shift, batch)
    refused = await _apply(shift, batch, cancel_requested=False)
    if refused:
        # A task that is to be cancelled does not go back: it is decided again, with that known.
        cancelled = await shift.backend.cancelled(shift.worker)
        again = [run for run in refused if run.task.seq in cancelled]
        await _apply(shift, again, cancel_requested=True)
        for run in refused:
            if run in shift.ended:
                shift.let_go(run)
                _log_stale(shift, run)


async def _apply(shift: Shift, batch: list[Run], *, cancel_requested: bool) -> list[Run]:
    """Settle these runs. Returns those that were refused."""
    now = await shift.backend.now()
    decided: dict[int, tuple[Run, Change]] = {}
    for run in batch:
        assert run.outcome is not None
        change = decide(
            run.task, run.retry, run.outcome, now, shift.rng, cancel_requested=cancel_requested
        )
        if change is not None:
            decided[run.task.seq] = run, change

    def settled(seqs: set[int]) -> None:
        # Called also when this task was cancelled while it waited: what is settled is let go.
        tells_all = logger.isEnabledFor(logging.DEBUG)
        for seq in seqs:
            run, change = decided[seq]
            shift.let_go(run)
            if tells_all or change.error is not None:
                _log(shift, run, change)

    if decided:
        changes = [change for _, change in decided.values()]
        await shift.backend.settle(shift.worker, changes, settled)
    return [run for run in batch if run in shift.ended]


def _log(shift: Shift, run: Run, change: Change) -> None:
    if change.error is None:
        shift.log(logging.DEBUG, "run ended", **_about(run))
    elif change.state is State.PENDING:
        shift.log(logging.WARNING, "run failed, to be retried", **_about(run))
    else:
        shift.log(logging.ERROR, "task failed", **_about(run))


def _log_stale(shift: Shift, run: Run) -> None:
    if run.cause is Cause.CANCEL or run.task.group is not None:  # perhaps with its parent
        shift.log(logging.DEBUG, "run ended: its task is over, or another worker's", **_about(run))
    else:
        shift.log(logging.WARNING, "lease lost: outcome dropped", **_about(run))


def _about(run: Run) -> dict[str, object]:
    about: dict[str, object] = {
        "task": run.task.id.hex(),
        "name": run.task.name,
        "attempt": run.task.attempts + 1,
    }
    if run.outcome is not None:
        about["outcome"] = run.outcome.kind
        if run.outcome.error is not None:
            about["error"] = unpack_error(run.outcome.error).type
    return about

"""The life of a task, as data: every change of state in sitq is decided here and nowhere else.

`TRANSITIONS` says which event leads from which state to which. The functions below it decide what
becomes of a row when a run ended, when a worker died, when time ran out. They are pure: clock and
random numbers come in as arguments, and a backend applies the `Change` that goes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from random import Random
from types import MappingProxyType

from sitq.clock import to_microsecond
from sitq.errors import DeadlinePassed, UnknownTask, WorkerLost, WrongState
from sitq.failure import describe, pack_error
from sitq.model import Change, Outcome, OutcomeKind, Reservation, State
from sitq.retry import Retry

__all__ = [
    "TERMINAL",
    "TRANSITIONS",
    "Event",
    "crashed",
    "expired",
    "forgotten",
    "settle",
    "transition",
]


class Event(StrEnum):
    """What can happen to a task."""

    RESERVE = "reserve"
    SUCCEED = "succeed"
    FAIL = "fail"
    RETRY = "retry"
    RELEASE = "release"
    CRASH = "crash"
    CANCEL = "cancel"
    EXPIRE = "expire"
    REVIVE = "revive"


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})

TRANSITIONS: Mapping[State, Mapping[Event, State]] = MappingProxyType(
    {
        State.PENDING: MappingProxyType(
            {
                Event.RESERVE: State.RUNNING,
                Event.CANCEL: State.CANCELLED,
                Event.EXPIRE: State.FAILED,
            }
        ),
        State.RUNNING: MappingProxyType(
            {
                Event.SUCCEED: State.SUCCEEDED,
                Event.FAIL: State.FAILED,
                Event.RETRY: State.PENDING,
                Event.RELEASE: State.PENDING,
                Event.CRASH: State.PENDING,
                Event.CANCEL: State.CANCELLED,
            }
        ),
        State.SUCCEEDED: MappingProxyType({}),
        State.FAILED: MappingProxyType({Event.REVIVE: State.PENDING}),
        State.CANCELLED: MappingProxyType({Event.REVIVE: State.PENDING}),
    }
)

UNKNOWN_BACKOFF = (1.0, 60.0)
"""Shortest and longest seconds for which a task is put back that a worker did not know."""


def transition(state: State, event: Event) -> State:
    """The state that ``event`` leads to.

    Raises:
        WrongState: the event cannot happen in this state.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise WrongState(f"a task that is {state} cannot {event}") from None


def settle(
    task: Reservation,
    retry: Retry,
    outcome: Outcome,
    now: float,
    rng: Random,
    *,
    cancel_requested: bool = False,
) -> Change | None:
    """What becomes of a task when its run ended. None when the run is no longer ours to settle.

    Args:
        task: the task as it was reserved.
        retry: the policy that holds for it.
        outcome: how the run ended.
        now: the wall clock, in seconds.
        rng: draws the jitter of a retry.
        cancel_requested: somebody asked to cancel the task: it is not run again.
    """
    match outcome.kind:
        case OutcomeKind.SUCCEEDED:
            return _succeeded(task, outcome)
        case OutcomeKind.LOST:
            return None
        case OutcomeKind.CANCELLED:
            return _change(task, Event.CANCEL)
        case OutcomeKind.RELEASED:
            return (
                _change(task, Event.CANCEL) if cancel_requested else _released(task, outcome, now)
            )
        case OutcomeKind.FAILED | OutcomeKind.TIMED_OUT:
            return _failed(task, retry, outcome, now, rng, cancel_requested)


def crashed(task: Reservation, crash_limit: int, *, cancel_requested: bool = False) -> Change:
    """What becomes of a task whose worker died under it.

    Args:
        task: the task as the dead worker held it.
        crash_limit: at so many crashes the task fails, as `WorkerLost`.
        cancel_requested: somebody asked to cancel the task: it is not run again.
    """
    crashes = task.crashes + 1
    if cancel_requested:
        return _change(task, Event.CANCEL, crashes=crashes)
    if crashes >= crash_limit:
        error = WorkerLost(f"{crashes} workers died while they ran this task")
        return _change(task, Event.FAIL, crashes=crashes, error=pack_error(describe(error)))
    return _change(task, Event.CRASH, crashes=crashes)


def expired(task: Reservation) -> Change:
    """What becomes of a pending task whose deadline passed: it fails, as `DeadlinePassed`."""
    error = DeadlinePassed("the deadline passed before the task could run")
    return _change(task, Event.EXPIRE, State.PENDING, error=pack_error(describe(error)))


def forgotten(task: Reservation) -> Change:
    """What becomes of a pending task that no worker knew for too long: `UnknownTask`."""
    error = UnknownTask(
        f"no worker knows a task function {task.name!r}; start one that imports its module, "
        "then retry the task"
    )
    return _change(task, Event.EXPIRE, State.PENDING, error=pack_error(describe(error)))


def _succeeded(task: Reservation, outcome: Outcome) -> Change:
    # As `_change` would make it with SUCCEED; spelled out, since most runs end here.
    return Change(
        task.seq,
        task.fence,
        State.SUCCEEDED,
        task.run_at,
        task.attempts,
        0,
        task.epoch,
        outcome.value,
    )


def _released(task: Reservation, outcome: Outcome, now: float) -> Change:
    if not outcome.unknown:
        return _change(task, Event.RELEASE)
    since = now if task.unknown_since is None else task.unknown_since
    shortest, longest = UNKNOWN_BACKOFF
    delay = min(max(now - since, shortest), longest)
    run_at = to_microsecond(now + delay)
    return _change(task, Event.RELEASE, run_at=run_at, unknown_since=since)


def _failed(
    task: Reservation, retry: Retry, outcome: Outcome, now: float, rng: Random, cancelled: bool
) -> Change:
    attempts = task.attempts + 1
    again = not outcome.final and retry.retries(attempts, outcome.types)
    if not again:
        return _change(task, Event.FAIL, attempts=attempts, error=outcome.error)
    if cancelled:
        return _change(task, Event.CANCEL, attempts=attempts, error=outcome.error)
    run_at = to_microsecond(now + retry.delay(attempts, rng))
    if task.deadline is not None and run_at >= task.deadline:
        return _change(task, Event.FAIL, attempts=attempts, error=outcome.error)
    return _change(
        task,
        Event.RETRY,
        attempts=attempts,
        epoch=task.epoch + 1,
        run_at=run_at,
        error=outcome.error,
    )


def _change(
    task: Reservation,
    event: Event,
    state: State = State.RUNNING,
    *,
    attempts: int | None = None,
    crashes: int | None = None,
    epoch: int | None = None,
    run_at: float | None = None,
    value: bytes | None = None,
    error: bytes | None = None,
    unknown_since: float | None = None,
) -> Change:
    return Change(
        task.seq,
        task.fence,
        TRANSITIONS[state][event],
        task.run_at if run_at is None else run_at,
        task.attempts if attempts is None else attempts,
        task.crashes if crashes is None else crashes,
        task.epoch if epoch is None else epoch,
        value,
        error,
        unknown_since,
    )

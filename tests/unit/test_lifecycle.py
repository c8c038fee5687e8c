"""The table of transitions, and every decision that is made from it."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitq.clock import to_microsecond
from sitq.errors import WrongState
from sitq.failure import unpack_error
from sitq.lifecycle import (
    TERMINAL,
    TRANSITIONS,
    UNKNOWN_BACKOFF,
    Event,
    crashed,
    expired,
    forgotten,
    settle,
    transition,
)
from sitq.model import Change, Outcome, OutcomeKind, Reservation, State
from sitq.retry import NO_RETRY, Retry

NOW = 1_000_000.0
RETRY = Retry(attempts=5, base=10, factor=1, cap=10)
TYPES = frozenset({"builtins.ValueError", "builtins.Exception"})

TASK = Reservation(
    seq=7,
    id=b"i" * 16,
    name="pkg.f",
    queue="default",
    priority=0,
    fence=3,
    attempts=1,
    crashes=1,
    epoch=2,
    run_at=NOW - 50,
    timeout=None,
    deadline=None,
    retry=None,
    arguments=b"",
    enqueued=NOW - 100,
    unknown_since=None,
)


def decide(outcome: Outcome, retry: Retry = RETRY, *, cancel: bool = False) -> Change | None:
    return settle(TASK, retry, outcome, NOW, Random(0), cancel_requested=cancel)


TABLE = {
    (State.PENDING, Event.RESERVE): State.RUNNING,
    (State.PENDING, Event.CANCEL): State.CANCELLED,
    (State.PENDING, Event.EXPIRE): State.FAILED,
    (State.RUNNING, Event.SUCCEED): State.SUCCEEDED,
    (State.RUNNING, Event.FAIL): State.FAILED,
    (State.RUNNING, Event.RETRY): State.PENDING,
    (State.RUNNING, Event.RELEASE): State.PENDING,
    (State.RUNNING, Event.CRASH): State.PENDING,
    (State.RUNNING, Event.CANCEL): State.CANCELLED,
    (State.FAILED, Event.REVIVE): State.PENDING,
    (State.CANCELLED, Event.REVIVE): State.PENDING,
}


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_event_in_every_state(state: State, event: Event) -> None:
    if (state, event) in TABLE:
        assert transition(state, event) is TABLE[state, event]
        assert TRANSITIONS[state][event] is TABLE[state, event]
    else:
        with pytest.raises(WrongState, match=f"{state} cannot {event}"):
            transition(state, event)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[State.PENDING] = {}  # type: ignore[index]
    with pytest.raises(TypeError):
        TRANSITIONS[State.PENDING][Event.FAIL] = State.FAILED  # type: ignore[index]
    assert set(TRANSITIONS) == set(State)


def test_a_terminal_state_is_left_only_by_hand() -> None:
    for state in TERMINAL:
        assert set(TRANSITIONS[state]) <= {Event.REVIVE}


COMBINATIONS = list(product(OutcomeKind, *[(False, True)] * 4))


@pytest.mark.parametrize(("kind", "cancel", "final", "unknown", "retries"), COMBINATIONS)
def test_settle(kind: OutcomeKind, cancel: bool, final: bool, unknown: bool, retries: bool) -> None:
    outcome = Outcome(kind, b"value", b"error", TYPES, final, unknown)
    change = decide(outcome, RETRY if retries else NO_RETRY, cancel=cancel)
    if kind is OutcomeKind.LOST:
        assert change is None
        return
    assert change is not None
    assert (change.seq, change.fence) == (TASK.seq, TASK.fence)
    counted = (change.attempts, change.crashes, change.epoch)
    if kind is OutcomeKind.SUCCEEDED:
        assert change.state is State.SUCCEEDED
        assert change.value == b"value"
        assert change.error is None
        assert counted == (1, 0, 2)
    elif kind is OutcomeKind.CANCELLED or (kind is OutcomeKind.RELEASED and cancel):
        assert change.state is State.CANCELLED
        assert counted == (1, 1, 2)
    elif kind is OutcomeKind.RELEASED:
        assert change.state is State.PENDING
        assert counted == (1, 1, 2)
        assert change.run_at == (NOW + 1 if unknown else TASK.run_at)
        assert change.unknown_since == (NOW if unknown else None)
    else:
        assert change.error == b"error"
        if final or not retries:
            assert change.state is State.FAILED
            assert counted == (2, 1, 2)
        elif cancel:
            assert change.state is State.CANCELLED
            assert counted == (2, 1, 2)
        else:
            assert change.state is State.PENDING
            assert counted == (2, 1, 3)
            assert change.run_at == NOW + 10
    if kind is not OutcomeKind.SUCCEEDED:
        assert change.value is None


failed = Outcome(OutcomeKind.FAILED, error=b"error", types=TYPES)


def test_attempts_run_out() -> None:
    states = [settle(TASK._replace(attempts=n), RETRY, failed, NOW, Random(0)) for n in range(6)]
    assert [change and change.state for change in states] == (
        [State.PENDING] * 4 + [State.FAILED] * 2
    )


def test_an_exception_that_is_not_retried_fails() -> None:
    change = decide(failed, Retry(give_up_on=ValueError))
    assert change is not None
    assert change.state is State.FAILED


@pytest.mark.parametrize(
    ("deadline", "state"),
    [
        (NOW + 9, State.FAILED),
        (NOW + 10, State.FAILED),
        (NOW + 10.5, State.PENDING),
        (None, State.PENDING),
    ],
)
def test_a_retry_past_the_deadline_fails_at_once(deadline: float | None, state: State) -> None:
    change = settle(TASK._replace(deadline=deadline), RETRY, failed, NOW, Random(0))
    assert change is not None
    assert change.state is state
    assert change.attempts == 2
    assert change.epoch == (3 if state is State.PENDING else 2)
    assert change.error == b"error"


def test_a_crash_is_not_an_attempt() -> None:
    change = crashed(TASK, 3)
    assert change == Change(7, 3, State.PENDING, TASK.run_at, attempts=1, crashes=2, epoch=2)


@pytest.mark.parametrize("crashes", [2, 3, 50])
def test_crashes_reach_the_limit(crashes: int) -> None:
    change = crashed(TASK._replace(crashes=crashes), 3)
    assert change.state is State.FAILED
    assert (change.attempts, change.crashes, change.epoch) == (1, crashes + 1, 2)
    assert change.error is not None
    assert unpack_error(change.error).type == "sitq.errors.WorkerLost"
    assert str(crashes + 1) in unpack_error(change.error).message


@pytest.mark.parametrize("crashes", [0, 1, 2, 9])
def test_a_crash_of_a_cancelled_task_ends_it(crashes: int) -> None:
    change = crashed(TASK._replace(crashes=crashes), 3, cancel_requested=True)
    assert change.state is State.CANCELLED
    assert (change.attempts, change.crashes, change.epoch) == (1, crashes + 1, 2)


def test_expired_and_forgotten() -> None:
    for change, name in (
        (expired(TASK), "sitq.errors.DeadlinePassed"),
        (forgotten(TASK), "sitq.errors.UnknownTask"),
    ):
        assert change.state is State.FAILED
        assert (change.attempts, change.crashes, change.epoch) == (1, 1, 2)
        assert change.error is not None
        assert unpack_error(change.error).type == name
    assert "'pkg.f'" in unpack_error(forgotten(TASK).error or b"").message


def test_an_unknown_function_is_put_back_for_longer_and_longer() -> None:
    task, now, delays = TASK, NOW, list[float]()
    outcome = Outcome(OutcomeKind.RELEASED, unknown=True)
    for _ in range(10):
        change = settle(task, RETRY, outcome, now, Random(0))
        assert change is not None
        assert change.unknown_since == NOW
        delays.append(change.run_at - now)
        now = change.run_at
        task = task._replace(run_at=change.run_at, unknown_since=change.unknown_since)
    assert delays == [1, 1, 2, 4, 8, 16, 32, 60, 60, 60]


@given(st.floats(-1e9, 1e9))
def test_the_unknown_backoff_is_bounded(since: float) -> None:
    task = TASK._replace(unknown_since=NOW + since)
    change = settle(task, RETRY, Outcome(OutcomeKind.RELEASED, unknown=True), NOW, Random(0))
    assert change is not None
    shortest, longest = UNKNOWN_BACKOFF
    assert NOW + shortest <= change.run_at <= NOW + longest


counts = st.integers(0, 1_000)
reservations = st.builds(
    TASK._replace,
    attempts=counts,
    crashes=counts,
    epoch=counts,
    run_at=st.floats(0, 2e9),
    deadline=st.none() | st.floats(0, 2e9),
    unknown_since=st.none() | st.floats(0, 2e9),
)
outcomes = st.builds(
    Outcome,
    st.sampled_from(OutcomeKind),
    st.none() | st.binary(max_size=3),
    st.none() | st.binary(max_size=3),
    st.frozensets(st.sampled_from(["builtins.ValueError", "a.B"])),
    st.booleans(),
    st.booleans(),
)
policies = st.builds(
    Retry,
    attempts=st.integers(1, 1_500),
    retry_on=st.none() | st.just(["a.B"]),
    give_up_on=st.just(()) | st.just([ValueError]),
)


@given(reservations, policies, outcomes, st.floats(0, 2e9), st.integers(), st.booleans())
def test_every_end_of_a_run_is_in_the_table(
    task: Reservation, retry: Retry, outcome: Outcome, now: float, seed: int, cancel: bool
) -> None:
    change = settle(task, retry, outcome, now, Random(seed), cancel_requested=cancel)
    assert change == settle(task, retry, outcome, now, Random(seed), cancel_requested=cancel)
    if change is None:
        assert outcome.kind is OutcomeKind.LOST
        return
    assert change.state in TRANSITIONS[State.RUNNING].values()
    assert change.state is not State.PENDING or not cancel
    assert change.epoch - task.epoch in (0, 1)
    grown = change.epoch > task.epoch
    assert not grown or (change.attempts == task.attempts + 1 and change.state is State.PENDING)
    if change.state is State.PENDING and task.deadline is not None and grown:
        assert change.run_at < task.deadline


@given(reservations, policies, outcomes, st.floats(0, 2e9), st.integers())
def test_what_is_computed_is_a_whole_number_of_microseconds(
    task: Reservation, retry: Retry, outcome: Outcome, now: float, seed: int
) -> None:
    change = settle(task, retry, outcome, to_microsecond(now), Random(seed))
    if change is not None and change.run_at != task.run_at:
        assert change.run_at == to_microsecond(change.run_at)


@given(reservations, st.integers(1, 100), st.booleans())
def test_every_crash_is_in_the_table(task: Reservation, limit: int, cancel: bool) -> None:
    change = crashed(task, limit, cancel_requested=cancel)
    assert change.state in TRANSITIONS[State.RUNNING].values()
    assert (change.attempts, change.crashes, change.epoch) == (
        task.attempts,
        task.crashes + 1,
        task.epoch,
    )

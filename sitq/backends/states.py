"""The numbers by which stores keep the states of tasks."""

from __future__ import annotations

from collections.abc import Mapping

from sitq.model import State

__all__ = ["NUMBERS", "STATES", "state_of"]

STATES: tuple[State, ...] = (
    State.PENDING,
    State.RUNNING,
    State.SUCCEEDED,
    State.FAILED,
    State.CANCELLED,
)
NUMBERS: Mapping[State, int] = {state: number for number, state in enumerate(STATES)}


def state_of(number: int) -> State:
    """The state with this number."""
    return STATES[number]

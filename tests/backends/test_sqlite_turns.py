"""Who gets a lock that many want: a simulation of processes that try again after their pauses."""

from __future__ import annotations

import heapq
import random

import pytest

from sitq.backends.sqlite.connect import pause

HOLD = 0.001
"""Seconds for which a process holds the lock on average."""
THINK = 0.0008
"""Seconds after which it wants it again on average."""
WAKE = 0.0001
"""Seconds by which a thread wakes up late."""


def waits(processes: int, seconds: float) -> list[float]:
    """How long each turn was waited for."""
    free_at = 0.0
    found: list[float] = []
    agenda = [(0.001 * number, number, 0.0) for number in range(processes)]
    while agenda[0][0] < seconds:
        now, number, waited = heapq.heappop(agenda)
        if now < free_at:
            late = pause(waited) + WAKE
            heapq.heappush(agenda, (now + late, number, waited + late))
        else:
            found.append(waited)
            free_at = now + random.uniform(0.5, 1.5) * HOLD
            again = free_at + random.uniform(0.5, 1.5) * THINK
            heapq.heappush(agenda, (again, number, 0.0))
    return found


@pytest.mark.parametrize("processes", [2, 8, 16])
def test_the_lock_goes_to_who_waits_long(processes: int) -> None:
    random.seed(processes)
    found = waits(processes, 20.0)
    assert len(found) > 20.0 / (2 * HOLD)  # nor is it left unused for long
    assert max(found) < 0.02 + 5 * processes * HOLD


def test_nobody_spins_on_a_lock_that_is_held_for_long() -> None:
    waited = tries = 0.0
    while waited < 30.0:
        waited += pause(waited)
        tries += 1
    assert tries < 30.0 / 0.002

"""When the next one is due, and what is said about so many latencies."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.benchmarks.setting import Figures, percentile

__all__ = ["WARM", "at_a_pace", "summary"]

WARM = 5
"""Tasks or trips that come first and are not counted."""


def summary(seconds: list[float]) -> Figures:
    """What is said about so many latencies."""
    measured = seconds[WARM:]
    return {
        "p50_ms": 1000 * percentile(measured, 0.5),
        "p99_ms": 1000 * percentile(measured, 0.99),
    }


def at_a_pace(count: int, pace: float) -> Iterator[float]:
    """For each turn, asked for when the one before is over: seconds until it is due."""
    began = time.monotonic()
    for number in range(count + WARM):
        yield max(0.0, began + number / pace - time.monotonic())

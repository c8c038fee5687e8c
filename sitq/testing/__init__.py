"""For tests of programs that use sitq: a clock they move, a machine that checks a store."""

from __future__ import annotations

from sitq.clock import ManualClock

try:
    from sitq.testing.machine import QueueMachine
except ModuleNotFoundError as _error:
    if _error.name != "hypothesis":
        raise
    raise ImportError(
        "sitq.testing needs Hypothesis: pip install hypothesis", name="hypothesis"
    ) from _error

__all__ = ["ManualClock", "QueueMachine"]

"""For tests of programs that use sitq: a clock they move, a queue to ask, a machine that
checks a store.

`QueueMachine` needs Hypothesis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sitq.clock import ManualClock
from sitq.testing.clock import Clock
from sitq.testing.queue import Enqueued, Queue

if TYPE_CHECKING:
    from sitq.testing.machine import QueueMachine

__all__ = ["Clock", "Enqueued", "ManualClock", "Queue", "QueueMachine"]


def __getattr__(name: str) -> Any:
    if name != "QueueMachine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from sitq.testing.machine import QueueMachine
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        raise ImportError(
            "sitq.testing.QueueMachine needs Hypothesis: pip install hypothesis", name="hypothesis"
        ) from error
    return QueueMachine

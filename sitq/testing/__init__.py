"""For tests of programs that use sitq: a clock they move, all tasks run at once, a queue to ask.

`QueueMachine`, which checks a store, needs Hypothesis; the fixtures for pytest are in
`sitq.testing.plugin`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sitq.testing.clock import Clock
from sitq.testing.pending import run_pending
from sitq.testing.queue import Enqueued, Queue

if TYPE_CHECKING:
    from sitq.testing.machine import QueueMachine

__all__ = ["Clock", "Enqueued", "Queue", "QueueMachine", "run_pending"]


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

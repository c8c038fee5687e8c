"""Lets threads have the interpreter beside an event loop that never rests.

A busy loop lets go of the interpreter after each step, to ask the kernel for news, but for so short
a moment that a thread that wakes up for it comes too late. And Python asks whoever holds it to give
way only when nothing has moved for `sys.getswitchinterval`, so never where steps are shorter. Then
the heartbeat and the threads of the store stand still for as long as that goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

__all__ = ["give_way"]

RESTLESS = 0.5
"""Share of the time that the event loop computes, above which threads may wait in vain."""
PAUSE, SHORT_PAUSE = 0.005, 0.001
"""Seconds until threads are let in again while the loop does not rest; while they are in demand."""
LONGEST_LOOK = 2.0
"""Seconds between two looks at whether it rests, at the most."""
MOMENT = 0.0001
"""Seconds in which a waiting thread wakes up and takes the interpreter."""


async def give_way(lease: float, in_demand: Callable[[], bool]) -> None:
    """Let go of the interpreter now and then, while the event loop does not rest.

    Args:
        lease: that of the worker, in seconds; to beat takes some ten moments.
        in_demand: whether anything waits for a thread.
    """
    longest = min(LONGEST_LOOK, lease / 10)
    pause = longest
    while True:
        began, computed = anyio.current_time(), time.thread_time()
        await anyio.sleep(pause)
        if time.thread_time() - computed > RESTLESS * (anyio.current_time() - began):
            _let_threads_in()
            pause = SHORT_PAUSE if in_demand() else PAUSE
        else:
            pause = min(2 * pause, longest)


def _let_threads_in() -> None:
    time.sleep(MOMENT)

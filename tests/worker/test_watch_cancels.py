"""The look for tasks that are to be cancelled: it stops the runs it was about, and no others."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from sitq.worker.run import Cause
from sitq.worker.upkeep import watch_cancels

pytestmark = pytest.mark.anyio


class Run:
    def __init__(self) -> None:
        self.causes: list[Cause] = []
        self.stop = self.causes.append


class Store:
    """Answers that task 1 is to be cancelled; something happens before the answer comes."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self._happens = happens

    def token(self) -> int:
        return 0

    async def cancelled(self, worker: int, children: list[int]) -> set[int]:
        self._happens()
        return {1}

    async def changed(self, token: int) -> None:
        raise EOFError


async def look(held: dict[int, Run], happens: Callable[[], object]) -> None:
    shift: Any = SimpleNamespace(
        backend=Store(happens), held=held, worker=7, children=lambda: list(held)
    )
    with pytest.raises(EOFError):
        await watch_cancels(shift)


async def test_it_stops_the_run_that_it_was_about() -> None:
    run = Run()
    await look({1: run}, lambda: None)
    assert run.causes == [Cause.CANCEL]


async def test_it_leaves_the_next_run_of_the_same_task_alone() -> None:
    first, second = Run(), Run()
    held = {1: first}
    await look(held, lambda: held.update({1: second}))
    assert first.causes == second.causes == []

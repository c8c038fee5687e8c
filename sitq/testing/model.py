"""A store in plain Python: the tasks as they must be in it, and what it must answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

from sitq.lifecycle import TERMINAL, TRANSITIONS
from sitq.model import NewTask, Reservation, State, TaskRow

__all__ = ["Known", "Model"]


@dataclass(slots=True)
class Known:
    """A task as it must be in the store."""

    order: int
    new: NewTask
    run_at: float
    state: State = State.PENDING
    fence: int = 0
    attempts: int = 0
    crashes: int = 0
    cancel: bool = False
    worker: int | None = None
    held: Reservation | None = None
    ended: int = 0

    @property
    def live(self) -> bool:
        return self.state not in TERMINAL

    def reads_as(self, row: TaskRow) -> bool:
        return (
            self.new.queue,
            self.new.priority,
            self.new.key,
            self.state,
            self.run_at,
            self.attempts,
            self.crashes,
            self.cancel,
        ) == (
            row.queue,
            row.priority,
            row.key,
            row.state,
            row.run_at,
            row.attempts,
            row.crashes,
            row.cancel_requested,
        )


class Model:
    """All tasks, by id."""

    def __init__(self) -> None:
        self.tasks: dict[bytes, Known] = {}
        self._ends = count(1)

    def move(self, task: Known, state: State) -> None:
        assert state in TRANSITIONS[task.state].values(), f"{task.state} became {state}"
        task.state = state
        task.ended = next(self._ends) if state in TERMINAL else 0

    def some(self, which: int) -> Known:
        return list(self.tasks.values())[which % len(self.tasks)]

    def running(self) -> list[Known]:
        return [task for task in self.tasks.values() if task.state is State.RUNNING]

    def held_by(self, worker: int) -> list[Known]:
        return [task for task in self.running() if task.worker == worker]

    def holder(self, key: str | None) -> Known | None:
        if key is None:
            return None
        return next((t for t in self.tasks.values() if t.live and t.new.key == key), None)

    def next_due(self, queues: tuple[str, ...] | None, now: float) -> float | None:
        return min((t.run_at for t in self._pending(queues) if t.run_at > now), default=None)

    def eligible(
        self, limit: int, queues: tuple[str, ...] | None, suspect: bool, now: float
    ) -> list[Known]:
        ready = [
            task
            for task in self._pending(queues)
            if task.run_at <= now and (task.new.deadline is None or task.new.deadline > now)
        ]
        ready.sort(key=lambda task: (-task.new.priority, task.run_at, task.order))
        chosen: list[Known] = []
        for task in ready:
            if not task.crashes or suspect:
                chosen.append(task)
                suspect = suspect and not task.crashes
        return chosen[:limit]

    def _pending(self, queues: tuple[str, ...] | None) -> Iterable[Known]:
        for task in self.tasks.values():
            if task.state is State.PENDING and (queues is None or task.new.queue in queues):
                yield task

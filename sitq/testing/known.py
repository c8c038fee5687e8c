"""What the model of a store knows: its tasks, their groups, and the workers."""

from __future__ import annotations

from dataclasses import dataclass

from sitq.backends.base import Filter
from sitq.lifecycle import TERMINAL
from sitq.model import NewChild, NewTask, ProgressRow, Reservation, State, TaskRow

__all__ = ["Known", "Member", "Nursery"]


@dataclass(slots=True)
class Known:
    """A task as it must be in the store. ``seq`` and ``fence`` are the store's own."""

    new: NewTask
    run_at: float
    seq: int = 0
    state: State = State.PENDING
    fence: int = 0
    attempts: int = 0
    crashes: int = 0
    epoch: int = 0
    cancel: bool = False
    worker: int | None = None
    unknown_since: float | None = None
    started: float | None = None
    ended: float | None = None
    place: int = 0
    """When it ended, as a count of the ends."""
    value: bytes | None = None
    error: bytes | None = None
    progress: ProgressRow | None = None
    group: int | None = None
    child: NewChild | None = None
    born: int = 0
    """The generation of its group in which it was enqueued."""

    @property
    def live(self) -> bool:
        return self.state not in TERMINAL

    def row(self) -> TaskRow:
        """As `Backend.get` must read it."""
        new = self.new
        return TaskRow(
            self.seq,
            new.id,
            new.name,
            new.queue,
            self.state,
            new.priority,
            new.key,
            self.attempts,
            self.crashes,
            self.cancel,
            new.enqueued,
            self.run_at,
            new.deadline,
            self.started,
            self.ended,
            self.value,
            self.error,
            self.progress,
        )

    def reservation(self) -> Reservation:
        """As the worker that reserved it last must have it."""
        new = self.new
        return Reservation(
            self.seq,
            new.id,
            new.name,
            new.queue,
            new.priority,
            self.fence,
            self.attempts,
            self.crashes,
            self.epoch,
            self.run_at,
            new.timeout,
            new.deadline,
            new.retry,
            new.arguments,
            new.enqueued,
            self.unknown_since,
            self.group,
        )

    def fits(self, wanted: Filter) -> bool:
        mine = (self.state, self.new.queue, self.new.name, self.new.key)
        return all(one in (None, own) for one, own in zip(wanted, mine, strict=True))

    def is_over(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.new.deadline is not None and self.new.deadline <= now


@dataclass(slots=True)
class Nursery:
    """A group that a task opened."""

    parent: bytes
    ordinal: int
    epoch: int
    generation: int = 0
    cancelled: bool = False


@dataclass(slots=True)
class Member:
    """A worker that has its lease."""

    lease: float
    beat: float
    suspect: float | None = None
    """Since when it is suspected to be dead."""
    lag: float | None = None

"""Who runs here: what a task function can ask of the task that it is."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from sitq.errors import UsageError
from sitq.model import Reservation
from sitq.options import check_amount, check_note

__all__ = ["CurrentTask", "Running", "current_task", "running_task", "while_waiting"]


class Running(Protocol):
    """A run, as far as its function and what that calls may know of it."""

    @property
    def task(self) -> Reservation:
        """What is run."""
        ...

    @property
    def place(self) -> str:
        """The store of the task."""
        ...

    @property
    def resources(self) -> Any:
        """What the tasks of its worker share."""
        ...

    @property
    def cancel_called(self) -> bool:
        """Whether it is to end."""
        ...

    @property
    def only_run_ends(self) -> bool:
        """Whether the run ends and the task does not: it goes on in another one."""
        ...

    def describe(self) -> CurrentTask:
        """The task that it is a run of."""
        ...

    def tell(self, done: float, total: float | None, note: str) -> None:
        """How far it is. From any thread."""
        ...

    def next_group(self) -> int:
        """How many groups it has opened before."""
        ...

    def forget_group(self, ordinal: int) -> None:
        """It was not opened: a second try is to have the same place."""
        ...

    def waiting(self) -> AbstractAsyncContextManager[None]:
        """In this block it only waits, and its slot is for others."""
        ...


@dataclass(frozen=True, slots=True)
class CurrentTask:
    """The task that runs here."""

    id: UUID
    name: str
    queue: str
    attempt: int
    """1 for the first run, one more for each that ended by failure or timeout."""
    enqueued_at: datetime
    deadline: datetime | None
    """When its time is up whatever happens; the timeout of one run is not part of it."""
    _run: Running

    @property
    def cancelled(self) -> bool:
        """Whether this run is to end: for sync functions, which no cancellation can interrupt."""
        return self._run.cancel_called

    @property
    def resources(self) -> Any:
        """What the ``lifespan`` of the worker has opened, the same object for each of its tasks.

        None without one.
        """
        return self._run.resources

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Tell how far the task is, for `sitq.Task.progress` and for who watches it.

        This only remembers it, in async functions as in the threads of sync ones: call it as often
        as you like. The worker writes the newest, at most twice a second.

        Args:
            done: how much is done, from 0, in units of your own.
            total: how much there is to do, above 0; None if that is not known.
            note: a few words; the first 500 characters are kept, and control characters are not.

        Raises:
            InvalidOption: one of them is none of that.
        """
        self._run.tell(
            check_amount("done", done, may_be_0=True),
            None if total is None else check_amount("total", total),
            check_note(note),
        )


is_process_of_worker: bool = False
"""Whether this is a process that a worker has started to run its functions."""

_NO_TASK = "no task runs here; current_task() is for task functions"
_IN_PROCESS = (
    "a function with executor='process' is called in another process than its worker, which knows "
    "its arguments and nothing else of the task; pass it what it needs"
)

# The run and not the `CurrentTask`: most functions never ask, and to make one takes time.
running_task: ContextVar[Running | None] = ContextVar("sitq_current_task", default=None)


def while_waiting() -> AbstractAsyncContextManager[None]:
    """In this block the task that runs here, if there is one, lets others have its slot."""
    run = running_task.get()
    return nullcontext() if run is None else run.waiting()


def current_task() -> CurrentTask:
    """The task that runs here, in an async task function or in the thread of a sync one.

    Raises:
        UsageError: no task runs here.
    """
    run = running_task.get()
    if run is None:
        raise UsageError(_IN_PROCESS if is_process_of_worker else _NO_TASK)
    return run.describe()

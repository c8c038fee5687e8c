"""Every exception of sitq, by who is at fault: the caller, the task, or the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sitq.model import Result

__all__ = [
    "DeadlinePassed",
    "InvalidArguments",
    "InvalidOption",
    "KeyTaken",
    "LeaseLost",
    "NotOpen",
    "NotRegistered",
    "NotSerializable",
    "ProcessLost",
    "RegistrationRefused",
    "ReplayMismatch",
    "SitqError",
    "StoreError",
    "StoreFull",
    "StoreReadOnly",
    "StoreReplaced",
    "StoreUnavailable",
    "StoreUnusable",
    "StoreVersionError",
    "TaskCancelled",
    "TaskDamaged",
    "TaskError",
    "TaskFailed",
    "TaskNotFound",
    "TaskTimedOut",
    "UnknownTask",
    "UsageError",
    "WorkerLost",
    "WrongState",
]


class SitqError(Exception):
    """The base of every exception that sitq raises of its own."""


# The caller is at fault: what was asked was not done.


class UsageError(SitqError):
    """The caller asked for something that cannot be done."""


class InvalidOption(UsageError, ValueError):
    """An option has a value outside what it takes."""


class InvalidArguments(UsageError, TypeError):
    """The arguments of a call do not fit the signature of its task function."""


class NotSerializable(UsageError, TypeError):
    """A value cannot be stored, or stored bytes cannot be read; the message names the path."""


class RegistrationRefused(UsageError):
    """A function cannot be registered: a lambda, a closure, a name that is taken or not allowed."""


class NotRegistered(UsageError):
    """A function that was never registered with ``@task`` was enqueued."""


class NotOpen(UsageError):
    """A backend or queue was used after its end, from another event loop, or after a fork.

    Or with a ``connection``, before it was opened.
    """


class WrongState(UsageError):
    """A task is in a state in which the request makes no sense, as a retry of a running one."""


class KeyTaken(UsageError):
    """A live task holds the unique key that this one needs."""


class ReplayMismatch(UsageError):
    """A task that runs again enqueued another call where it had enqueued this one before."""


class TaskNotFound(SitqError, LookupError):
    """No such task: it was never stored, or it ended and was purged."""


# The task is at fault, or what ran it: recorded as its error, or raised by ``handle.result()``.


class TaskError(SitqError):
    """A task did not end well."""


class TaskFailed(TaskError):
    """The task failed for good. ``result`` holds its `sitq.Result`, with the error as data."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[type[TaskFailed], tuple[str, Result]]:
        return type(self), (str(self), self.result)


class LeaseLost(TaskError):
    """Who wants to go on has lost its lease: its task, or its group, is no longer its own."""


class TaskCancelled(TaskError):
    """The task was cancelled before it finished."""


class TaskTimedOut(TaskError):
    """A run took longer than its timeout; recorded, and retried by the policy."""


class DeadlinePassed(TaskError):
    """The deadline of a task passed before it finished; recorded, never retried."""


class TaskDamaged(TaskError):
    """The stored row of a task is damaged, or a stranger wrote it; shown and recorded as its error.

    The message names the columns. Such a task is not run.
    """


class UnknownTask(TaskError):
    """No worker knew the function of a task for too long, or its process cannot import it.

    Recorded as its error.
    """


class ProcessLost(TaskError):
    """The process that ran a task ended under it: killed, out of memory, by ``os._exit``.

    Recorded as its error, and retried by the policy.
    """


class WorkerLost(TaskError):
    """Workers died under the task ``crash_limit`` times; recorded as its error."""


# The store is at fault.


class StoreError(SitqError):
    """The store could not do what was asked; nothing of it was stored, unless it says otherwise."""


class StoreUnavailable(StoreError):
    """The store cannot answer now (locked, input/output error); the same call may succeed later.

    Where a server was lost before it answered, it says that the call may have been done.
    """


class StoreFull(StoreUnavailable):
    """There is no space left for the database."""


class StoreUnusable(StoreError):
    """The store can never be right as it stands (not a database, corrupt); someone must act."""


class StoreReadOnly(StoreUnusable):
    """The database or its folder cannot be written."""


class StoreReplaced(StoreUnusable):
    """The database file was deleted or replaced while it was open."""


class StoreVersionError(StoreUnusable):
    """The schema of the database comes from a newer version of sitq."""

"""sitq: a durable task queue made of structured concurrency, for asyncio and trio."""

from typing import TYPE_CHECKING, Any

from sitq.backends.sqlite import SQLiteBackend
from sitq.backends.url import backend_from_url, postgres_backend
from sitq.clock import Clock
from sitq.context import CurrentTask, current_task
from sitq.group import INHERIT, TaskGroup
from sitq.handle import TaskHandle
from sitq.model import ErrorInfo, Progress, Result, State, Task, TaskTree, WorkerStatus
from sitq.queue import TaskQueue
from sitq.registry import Call, Registry, TaskFunction, task
from sitq.retry import Retry
from sitq.serialization import MsgpackSerializer, Serializer, serializable
from sitq.sync import SyncTaskQueue
from sitq.worker import Worker

if TYPE_CHECKING:
    from sitq.backends.postgres import PostgresBackend

__version__ = "0.1.0"

__all__ = [
    "Call",
    "Clock",
    "CurrentTask",
    "ErrorInfo",
    "INHERIT",
    "MsgpackSerializer",
    "PostgresBackend",
    "Progress",
    "Registry",
    "Result",
    "Retry",
    "SQLiteBackend",
    "Serializer",
    "State",
    "SyncTaskQueue",
    "Task",
    "TaskFunction",
    "TaskGroup",
    "TaskHandle",
    "TaskQueue",
    "TaskTree",
    "Worker",
    "WorkerStatus",
    "backend_from_url",
    "current_task",
    "serializable",
    "task",
]


def __getattr__(name: str) -> Any:
    if name == "PostgresBackend":  # psycopg is an extra, and slow to import
        return postgres_backend()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""sitq: a durable task queue made of structured concurrency, for asyncio and trio."""

from sitq.backends.sqlite import SQLiteBackend
from sitq.clock import Clock
from sitq.context import CurrentTask, current_task
from sitq.group import INHERIT, TaskGroup
from sitq.handle import TaskHandle
from sitq.model import ErrorInfo, Result, State, Task, TaskTree, WorkerStatus
from sitq.queue import TaskQueue
from sitq.registry import Call, Registry, TaskFunction, task
from sitq.retry import Retry
from sitq.serialization import MsgpackSerializer, Serializer, serializable
from sitq.worker import Worker

__version__ = "0.1.0"

__all__ = [
    "Call",
    "Clock",
    "CurrentTask",
    "ErrorInfo",
    "INHERIT",
    "MsgpackSerializer",
    "Registry",
    "Result",
    "Retry",
    "SQLiteBackend",
    "Serializer",
    "State",
    "Task",
    "TaskFunction",
    "TaskGroup",
    "TaskHandle",
    "TaskQueue",
    "TaskTree",
    "Worker",
    "WorkerStatus",
    "current_task",
    "serializable",
    "task",
]

"""A store with a task in every state, put back before each attempt, and looks at what it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

import psycopg

from sitq import Result, State, Task, TaskHandle, TaskQueue
from sitq.backends.base import Recovered, Wanted
from sitq.backends.postgres import PostgresBackend
from sitq.calls import new_ids
from sitq.lifecycle import settle
from sitq.model import (
    Change,
    Group,
    NewChild,
    NewGroup,
    NewTask,
    Note,
    Outcome,
    OutcomeKind,
    Reservation,
    TaskRow,
    WorkerRow,
    WorkerStatus,
)
from sitq.retry import NO_RETRY

from ...postgres import backend_at, server_url
from ...worker import functions as f
from ..stage import RECORD, SUCCEEDED

__all__ = ["Stage", "Template", "make_template"]

TABLES = ("task", "task_group", "worker", "progress")
SNAPSHOT = (
    "SELECT name, queue, state, priority, key, fence, attempts, crashes, epoch, cancel, worker,"
    " ended IS NOT NULL, unknown_since IS NOT NULL, length(arguments), length(value),"
    " length(error), group_id, child, born FROM {}.task ORDER BY seq",
    "SELECT host, pid FROM {}.worker ORDER BY id",
    "SELECT seq, fence, done, total, note FROM {}.progress ORDER BY seq",
    "SELECT parent, ordinal, epoch, generation, owner, cancelled FROM {}.task_group ORDER BY id",
)


@dataclass(frozen=True)
class Template:
    """What is stored before each attempt."""

    schema: str
    worker: int
    """Holds the tasks in the queues ``running``, ``asked`` and ``parent``."""
    idle: int
    """Another worker, that holds nothing."""
    ids: Mapping[str, UUID]
    """A task in each state, by the name of its queue."""
    running: Reservation
    child: Reservation
    """A child of the task in ``parent``, reserved by the worker."""
    group: Group
    """Of the task in ``parent``."""
    own: Group
    """Of a program."""

    def restore(self, connection: psycopg.Connection[Any]) -> None:
        """Put everything back."""
        names = ", ".join(f"{self.schema}.{table}" for table in TABLES)
        connection.execute(f"TRUNCATE {names}")
        for table in TABLES:
            connection.execute(
                f"INSERT INTO {self.schema}.{table} OVERRIDING SYSTEM VALUE "
                f"SELECT * FROM {self.schema}.saved_{table}"
            )


@dataclass
class Stage:
    """An open store, its template, and a connection of a stranger to it."""

    template: Template
    backend: PostgresBackend
    stranger: psycopg.Connection[Any]
    delivered: list[Reservation] = field(default_factory=list[Reservation])
    settled: set[int] = field(default_factory=set[int])

    @property
    def queue(self) -> TaskQueue:
        return TaskQueue(self.backend)

    def rows(self, query: str, *values: Any) -> list[Any]:
        """What a stranger reads; ``{}`` stands for the schema."""
        return self.stranger.execute(query.replace("{}", self.template.schema), values).fetchall()

    def handle(self, queue: str) -> TaskHandle[Any]:
        """The task that stands in this queue."""
        return self.queue.handle(self.template.ids[queue])

    def new(self, key: str | None = None, size: int = 1) -> NewTask:
        """A task that can be inserted."""
        return new_task(self.backend.clock.time(), key, size)

    def child(self, name: str, key: str | None = None) -> NewChild:
        """A child that can be inserted."""
        return NewChild(self.new(key), name, b"digest")

    def done(self, *tasks: Reservation) -> Any:
        """The ends of runs that succeeded; the one of one."""
        now = self.backend.clock.time()
        changes = [settle(task, NO_RETRY, SUCCEEDED, now, Random(0)) for task in tasks]
        return changes[0] if len(changes) == 1 else changes

    def told(self, task: Reservation) -> Note:
        """What a run has told of its progress."""
        return Note(task.seq, task.fence, 1.0, 2.0, "half way", self.backend.clock.time())

    def back(self, task: Reservation) -> Change:
        """A run goes back."""
        now = self.backend.clock.time()
        change = settle(task, NO_RETRY, Outcome(OutcomeKind.RELEASED), now, Random(0))
        assert change is not None
        return change

    def snapshot(self) -> list[Any]:
        """All that is stored, but for ids and times."""
        return [self.rows(query) for query in SNAPSHOT]

    def held(self) -> list[tuple[int, int]]:
        """What the worker is to run now and did not hold before."""
        query = (
            "SELECT seq, fence FROM {}.task WHERE worker = %s "
            "AND queue NOT IN ('running', 'asked', 'parent', 'child') ORDER BY seq"
        )
        return self.rows(query, self.template.worker)

    def plain(self, answer: Any) -> Any:
        """An answer as a value that compares: without ids and times."""
        match answer:
            case TaskHandle():
                return self._named(answer.id.bytes)
            case bytes():
                return self._named(answer)
            case TaskRow() | Task():
                return answer.seq, answer.state
            case WorkerRow() | WorkerStatus():
                return answer.pid
            case Result() | Exception():
                return type(answer)
            case Recovered():  # what it found it only tells
                return answer.lease_held
            case list():
                return [self.plain(part) for part in answer]
            case Change():
                return answer.seq, answer.state
            case Group():
                return answer._replace(id=0, owner=None)
            case float():
                return "a time"
            case int() if answer > self.template.worker + 2:
                return "a new worker"
            case set():
                return sorted(answer)
        return answer

    def _named(self, id: bytes) -> Any:
        query = "SELECT queue, key, state, length(arguments) FROM {}.task WHERE id = %s"
        return self.rows(query, UUID(bytes=id))


def new_task(now: float, key: str | None = None, size: int = 1, queue: str = "new") -> NewTask:
    body = b"x" * size
    return NewTask(*new_ids(now, 1), "echo", queue, 0, now, key, None, None, None, body, now)


async def make_template(schema: str) -> Template:
    """Store a task in every state, groups, and workers that hold some of the tasks; save that."""
    async with backend_at(schema) as backend:
        worker, idle, dead = [await backend.hire(RECORD) for _ in range(3)]
        names = ("pending", "running", "asked", "failed", "succeeded", "parent", "crashed")
        queue = TaskQueue(backend)
        handles = {name: await queue.enqueue(f.echo.using(queue=name), 1) for name in names}
        taken: dict[str, Reservation] = {}

        async def reserve(owner: int, its: Sequence[str]) -> None:
            def keep(tasks: list[Reservation]) -> None:
                taken.update((task.queue, task) for task in tasks)

            await backend.reserve(owner, Wanted(10, tuple(its)), keep)

        await reserve(worker, names[1:6])
        await reserve(dead, names[6:])
        await handles["asked"].cancel()
        parent = taken["parent"]
        group = await backend.open_group(NewGroup(parent.seq, parent.fence, ordinal=0))
        own = await backend.open_group(NewGroup(None, owner=idle))
        now = await backend.now()
        await backend.insert_children(
            group,
            [NewChild(new_task(now, queue=name), name, b"digest") for name in ("child", "kid")],
        )
        await backend.insert_children(own, [NewChild(new_task(now, queue="own"), "own", b"digest")])
        await reserve(worker, ["child"])
        await backend.settle(worker, _ends(taken, now))
    with psycopg.connect(server_url(), autocommit=True) as stranger:
        stranger.execute(f"DELETE FROM {schema}.worker WHERE id = %s", (dead,))
        for table in TABLES:
            stranger.execute(f"CREATE TABLE {schema}.saved_{table} AS TABLE {schema}.{table}")
        # They were reserved through another backend object, which numbers its wishes by itself.
        stranger.execute(f"UPDATE {schema}.saved_task SET batch = NULL")
    ids = {name: handle.id for name, handle in handles.items()}
    return Template(schema, worker, idle, ids, taken["running"], taken["child"], group, own)


def _ends(taken: Mapping[str, Reservation], now: float) -> list[Change]:
    outcomes = {
        "failed": Outcome(OutcomeKind.FAILED, error=b"e" * 2_000),
        "succeeded": SUCCEEDED,
    }
    changes = [settle(taken[n], NO_RETRY, o, now, Random(0)) for n, o in outcomes.items()]
    ends = [change for change in changes if change is not None]
    assert all(change.state in (State.FAILED, State.SUCCEEDED) for change in ends)
    return ends

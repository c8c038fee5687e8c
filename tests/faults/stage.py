"""A store with a task in every state, gates that hold its threads, and looks at what it holds."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import AsyncGenerator, Generator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4

import anyio

from sitq import Result, SQLiteBackend, Task, TaskHandle, TaskQueue
from sitq.backends.base import Recovered, Wanted
from sitq.backends.commit import Operation
from sitq.backends.sqlite.driver import Driver
from sitq.backends.sqlite.opened import Opened
from sitq.calls import new_ids
from sitq.lifecycle import settle
from sitq.model import (
    Change,
    NewTask,
    Note,
    Outcome,
    OutcomeKind,
    Reservation,
    TaskRow,
    WorkerRecord,
    WorkerRow,
    WorkerStatus,
)
from sitq.retry import NO_RETRY
from sitq.serialization import default_serializer, pack

from ..worker import functions as f
from .checkpoints import PATIENCE, nothing_leaked, until

RECORD = WorkerRecord("here", 1, None, 10, 3600.0)
VALUE = "v" * 2_000
SUCCEEDED = Outcome(OutcomeKind.SUCCEEDED, value=pack(default_serializer, VALUE, "it"))
ROWS = """
SELECT seq, name, queue, state, priority, key, fence, attempts, crashes, epoch, cancel, worker,
    change, unknown_since IS NOT NULL, length(arguments), length(value), length(error)
FROM sitq_task ORDER BY seq
"""


@dataclass(frozen=True)
class Template:
    """A database file that is copied for every attempt: making it takes longer."""

    path: Path
    worker: int
    """Holds the tasks in the queues ``running`` and ``asked``."""
    idle: int
    """Another worker, that holds nothing."""
    ids: Mapping[str, UUID]
    """A task in each state, by the name of its queue."""
    running: Reservation

    @asynccontextmanager
    async def stage(self, folder: Path | None) -> AsyncGenerator[Stage]:
        """A copy of it, open, in the folder or in memory. At the end it is closed, and nothing is
        leaked.
        """
        async with nothing_leaked(), self._in_memory() if folder is None else self._in(folder) as s:
            yield s

    @asynccontextmanager
    async def _in_memory(self) -> AsyncGenerator[Stage]:
        async with SQLiteBackend(":memory:") as backend:
            stage = Stage(self, backend, None)
            with closing(sqlite3.connect(self.path, check_same_thread=False)) as source:
                await stage.opened.writer.run(source.backup)
            yield stage

    @asynccontextmanager
    async def _in(self, folder: Path) -> AsyncGenerator[Stage]:
        path = folder / f"{uuid4().hex}.db"
        shutil.copy(self.path, path)
        with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as stranger:
            async with SQLiteBackend(path, synchronous="NORMAL") as backend:
                yield Stage(self, backend, stranger)


@dataclass
class Stage:
    """An open store, its template, and a connection of a stranger to it if it is a file."""

    template: Template
    backend: SQLiteBackend
    stranger: sqlite3.Connection | None
    delivered: list[Reservation] = field(default_factory=list[Reservation])

    @property
    def queue(self) -> TaskQueue:
        return TaskQueue(self.backend)

    @property
    def opened(self) -> Opened:
        assert self.backend._opened is not None
        return self.backend._opened

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """What a stranger reads; in memory, where there is none, the store's own connection."""
        if self.stranger is not None:
            return self.stranger.execute(sql, values).fetchall()
        answer: Future[list[Any]] = Future()

        def ask(connection: sqlite3.Connection) -> None:
            try:
                answer.set_result(connection.execute(sql, values).fetchall())
            except Exception as error:
                answer.set_exception(error)

        self.opened.writer.post(ask, _nothing)
        return answer.result(PATIENCE)

    def handle(self, queue: str) -> TaskHandle[Any]:
        """The task that stands in this queue."""
        return self.queue.handle(self.template.ids[queue])

    def new(self, key: str | None = None, size: int = 1) -> NewTask:
        """A task that can be inserted."""
        now = self.backend.clock.time()
        body = b"x" * size
        return NewTask(*new_ids(now, 1), "echo", "new", 0, now, key, None, None, None, body, now)

    def done(self, task: Reservation) -> Change:
        """The end of a run that succeeded."""
        change = settle(task, NO_RETRY, SUCCEEDED, self.backend.clock.time(), Random(0))
        assert change is not None
        return change

    def told(self, task: Reservation) -> Note:
        """What a run has told of its progress."""
        return Note(task.seq, task.fence, 1.0, 2.0, "half way", self.backend.clock.time())

    def snapshot(self) -> list[Any]:
        """All that is stored, but for ids and times."""
        queries = (
            ROWS,
            "SELECT id FROM sitq_worker ORDER BY id",
            "SELECT name, value FROM sitq_meta ORDER BY name",
            "SELECT seq, part, length(body) FROM sitq_big ORDER BY seq, part",
            "SELECT seq, done, total, note FROM sitq_progress ORDER BY seq",
        )
        return [self.rows(query) for query in queries]

    def running(self) -> set[int]:
        """The ``seq`` of those that the worker is to run now and did not hold before."""
        before = "SELECT seq FROM sitq_task WHERE queue NOT IN ('running', 'asked') AND worker = ?"
        return {seq for (seq,) in self.rows(before, self.template.worker)}

    def ended(self) -> set[int]:
        """The ``seq`` of those that have ended."""
        return {seq for (seq,) in self.rows("SELECT seq FROM sitq_task WHERE state > 1")}

    def plain(self, answer: Any) -> Any:
        """An answer as a value that compares: without ids and times."""
        match answer:
            case TaskHandle():
                return self._seq(answer.id.bytes)
            case bytes():
                return self._seq(answer)
            case TaskRow() | Task():
                return answer.seq, answer.state
            case WorkerRow() | WorkerStatus():
                return answer.id
            case Result():
                return answer.state, answer.value
            case Recovered():
                return tuple(self.plain(part) for part in answer)
            case Change():
                return answer.seq, answer.state
            case list():
                return [self.plain(each) for each in answer]
            case Exception():
                return type(answer)
            case float():
                return "a time"
        return answer

    def _seq(self, id: bytes) -> int | None:
        rows = self.rows("SELECT seq FROM sitq_task WHERE id = ?", id)
        return rows[0][0] if rows else None

    async def is_whole(self) -> None:
        """Wait until all that was posted is done; then no transaction may be open anywhere."""
        for driver in {self.opened.writer, self.opened.reader}:
            assert not await driver.run(lambda connection: connection.in_transaction)
        self.rows("BEGIN IMMEDIATE")
        self.rows("ROLLBACK")

    async def is_usable(self) -> None:
        """A task goes its whole way: enqueued, reserved, run, settled, and its result read."""
        handle = await self.queue.enqueue(f.echo.using(queue="after"), 1)
        taken: list[Reservation] = []
        await self.backend.reserve(self.template.worker, Wanted(1, ("after",)), taken.extend)
        assert await self.backend.settle(self.template.worker, [self.done(taken[0])])
        result = await self.queue.get_result(handle)  # no wait: closing takes long after one
        assert result is not None
        assert result.value == VALUE

    @asynccontextmanager
    async def committing(self) -> AsyncGenerator[None]:
        """A batch is under way all through the block, so that others wait in the mailbox."""
        began, gate = threading.Event(), threading.Event()

        def hold(_: object) -> bool:
            began.set()
            return not gate.wait(PATIENCE)

        async with anyio.create_task_group() as group:
            group.start_soon(self.opened.commit.submit, Operation(hold, needed=hold))
            await until(began.is_set)
            try:
                yield
            finally:
                gate.set()

    async def settle_running(self) -> None:
        """The task in the queue ``running`` succeeds, if it has not yet; and new work comes."""
        await self.backend.settle(self.template.worker, [self.done(self.template.running)])
        await self.backend.insert([self.new()])

    def waits(self) -> int:
        """How many callers wait for something."""
        assert self.opened._watch is not None
        assert len(self.opened.waiters._events) <= self.opened._watch._interested
        return self.opened._watch._interested

    def run_out(self, driver: Driver) -> None:
        """Hold up the event loop until the thread has done all; its answers are on their way."""
        done = threading.Event()
        driver.post(lambda _: done.set(), _nothing)
        assert done.wait(PATIENCE)


def is_posted(opened: Opened) -> bool:
    """Whether what was submitted is on its way to the thread of the writer."""
    return opened.commit._busy and not opened.commit._mailbox


@contextmanager
def held(driver: Driver) -> Generator[None]:
    """The thread of a driver stands still inside the block."""
    gate = threading.Event()
    driver.post(lambda _: gate.wait(PATIENCE), _nothing)
    try:
        yield
    finally:
        gate.set()


def _nothing(result: object, error: BaseException | None) -> None:
    """Takes an answer that nobody needs."""


async def make_template(path: Path) -> Template:
    """Make the database file: a task in every state, and workers that hold some of them."""
    async with SQLiteBackend(path, synchronous="NORMAL") as backend:
        worker, idle, dead = [await backend.hire(RECORD) for _ in range(3)]
        names = ("pending", "running", "asked", "failed", "succeeded", "crashed")
        queue = TaskQueue(backend)
        handles = {name: await queue.enqueue(f.echo.using(queue=name), 1) for name in names}
        taken: dict[str, Reservation] = {}

        def keep(tasks: list[Reservation]) -> None:
            taken.update((task.queue, task) for task in tasks)

        for owner, its in ((worker, names[1:5]), (dead, names[5:])):
            await backend.reserve(owner, Wanted(10, its), keep)
        await handles["asked"].cancel()
        outcomes = {
            "failed": Outcome(OutcomeKind.FAILED, error=b"e" * 2_000),
            "succeeded": SUCCEEDED,
        }
        now = backend.clock.time()
        changes = [settle(taken[n], NO_RETRY, o, now, Random(0)) for n, o in outcomes.items()]
        await backend.settle(worker, [change for change in changes if change is not None])
    with closing(sqlite3.connect(path)) as stranger, stranger:
        stranger.execute("DELETE FROM sitq_worker WHERE id = ?", (dead,))
    ids = {name: handle.id for name, handle in handles.items()}
    return Template(path, worker, idle, ids, taken["running"])

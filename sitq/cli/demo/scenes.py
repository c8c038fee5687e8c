"""The tour: what is done in it, chapter by chapter, and what is said of it."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import anyio
from anyio import Event, create_task_group

from sitq.backends.sqlite import SQLiteBackend
from sitq.cli.child import Child, command_line
from sitq.cli.demo import tasks
from sitq.cli.demo.voice import Voice
from sitq.errors import TaskCancelled, TaskFailed
from sitq.failure import summary
from sitq.handle import TaskHandle
from sitq.model import State
from sitq.queue import TaskQueue

__all__ = ["tour"]

Named = list[tuple[str, TaskHandle[Any]]]

LEASE, CONCURRENCY = 1, 4
STEPS = 16
MOMENT = 0.01
LIMIT = 30.0
"""Seconds after which a task of the tour should have ended long ago."""


async def tour(voice: Voice, folder: Path) -> None:
    """Show everything, with worker processes that end with the tour.

    Raises:
        TimeoutError: a task did not end, though none takes long.
        ChildProcessError: a worker ended before it was told to.
    """
    path = folder / "tasks.db"
    voice.say(f"A tour of sitq, on a file that is removed at the end: {path}")
    async with TaskQueue(SQLiteBackend(path)) as queue:
        stored = await _store(voice, queue)
        async with _worker(path) as doomed:
            await _run(voice, path, stored)
            await _retry(voice, queue)
            await _group(voice, queue)
            count = Count(path, folder / "runs.txt")
            await _kill(voice, queue, doomed, count)
        async with _worker(path):
            await _take_over(voice, queue, count)
            await _progress(voice, queue)
            await _cancel(voice, queue)
    await _leave(voice)


async def _store(voice: Voice, queue: TaskQueue) -> Named:
    await voice.title("Store calls of functions")
    stored: Named = [
        ("add(2, 3)", await queue.enqueue(tasks.add, 2, 3)),
        ("count_words('to be or not')", await queue.enqueue(tasks.count_words, "to be or not")),
    ]
    voice.say("A stored call is a task. These are in the file, and nothing runs them yet:")
    voice.show([(name, await handle.status()) for name, handle in stored])
    return stored


async def _run(voice: Voice, path: Path, stored: Named) -> None:
    await voice.title("Let a worker run them")
    voice.say("A worker is a program that looks into the file. This one runs beside us now:")
    voice.command("sitq", *_arguments(path))
    await _show_results(voice, stored)


async def _retry(voice: Voice, queue: TaskQueue) -> None:
    await voice.title("A task that fails is run again, if its policy says so")
    voice.say("call_friend() has Retry(attempts=5, base=0.05, cap=0.2); divide() has none:")
    patient, hasty = await queue.enqueue(tasks.call_friend), await queue.enqueue(tasks.divide, 1, 0)
    await _show_results(voice, [("call_friend()", patient), ("divide(1, 0)", hasty)])


async def _group(voice: Voice, queue: TaskQueue) -> None:
    await voice.title("Tasks can form a group that ends together")
    voice.say(
        "The block of queue.task_group() ends when all its tasks have; if one fails, it cancels",
        "the others. Here it has ten calls of square():",
    )
    async with queue.task_group() as group:
        squares = await group.enqueue_many([tasks.square.call(n) for n in range(1, 11)])
        total = sum([await one.result(timeout=LIMIT) for one in squares])
        voice.show([("1 + 4 + 9 + ... + 100", total)])


async def _kill(voice: Voice, queue: TaskQueue, doomed: Child, count: Count) -> None:
    await voice.title("A worker is killed, and nothing is lost")
    runs = str(count.runs)
    await queue.enqueue_many([tasks.step.call(n, runs) for n in range(STEPS)])
    await count.until_begun(CONCURRENCY)
    doomed.tell(SIGKILL, hurry=True)
    await doomed.ended.wait()
    voice.say(f"{STEPS} tasks are stored, and in the midst of them the worker gets a SIGKILL:")
    voice.show(await _states(queue))


async def _take_over(voice: Voice, queue: TaskQueue, count: Count) -> None:
    voice.say(
        f"Another worker starts. When the lease of the dead one has lapsed, after {LEASE} s, what",
        "that was running is pending again, and runs here:",
    )
    for task in await queue.find(name=tasks.step.name):
        await queue.handle(task.id).result(timeout=LIMIT)
    voice.show(await _states(queue))
    voice.say("The file numbers the ends of tasks, and each run has noted that it began:")
    voice.show(count.figures(sum(number for _, number in await _states(queue))))
    voice.say("So a task runs at least once, and ends once.")


async def _progress(voice: Voice, queue: TaskQueue) -> None:
    await voice.title("A task can tell how far it is")
    voice.say("print_pages(4) calls current_task().progress(), and handle.watch() is told:")
    handle = await queue.enqueue(tasks.print_pages, 4)
    seen = None
    with anyio.fail_after(LIMIT):
        async for task in handle.watch(interval=0.1):
            progress = task.progress
            if progress is not None and progress != seen:
                voice.show([(f"{progress.done:.0f} of {progress.total:.0f}", progress.note)])
            seen = progress


async def _cancel(voice: Voice, queue: TaskQueue) -> None:
    await voice.title("What runs can be cancelled")
    handle = await queue.enqueue(tasks.wait)
    await _until_running(handle)
    voice.say("wait() would run for ever; its worker is told to cancel it:")
    await handle.cancel()
    await _show_results(voice, [("wait()", handle)])


async def _leave(voice: Voice) -> None:
    await voice.title("What to read next")
    voice.show(
        [
            ("docs/tutorials/first-steps.md", "tasks of your own"),
            ("docs/explanation/promises.md", "what you can rely on"),
            ("docs/how-to/deployment.md", "workers as services"),
            ("sitq worker --help", "how to run workers"),
            ("sitq --help", "how to look at what is stored"),
        ]
    )


class Count:
    """Counts ends and runs of tasks from here on.

    Args:
        path: of the database, which numbers each end of a task.
        runs: of a file, to which each run adds a line.
    """

    def __init__(self, path: Path, runs: Path) -> None:
        self._path = path
        self.runs = runs
        self._before = self._last_end()

    async def until_begun(self, number: int) -> None:
        """Wait until so many runs have begun."""
        with anyio.fail_after(LIMIT):
            while self._begun() < number:  # noqa: ASYNC110
                await anyio.sleep(MOMENT)

    def figures(self, ended: int) -> Iterable[tuple[str, object]]:
        """What became of the steps, of which so many have ended."""
        ends = self._last_end() - self._before
        runs = self._begun()
        return [
            ("stored", STEPS),
            ("lost", STEPS - ended),
            ("ended twice", ends - ended),
            ("runs", f"{runs}: {runs - STEPS} were cut off, and began again"),
        ]

    def _begun(self) -> int:
        return self.runs.read_bytes().count(b"\n") if self.runs.exists() else 0

    def _last_end(self) -> int:
        with closing(sqlite3.connect(self._path)) as connection:
            row = connection.execute("SELECT value FROM sitq_meta WHERE name = 'ended'").fetchone()
        return row[0]


@asynccontextmanager
async def _worker(path: Path) -> AsyncGenerator[Child]:
    """A worker process beside the block. At the end it is told to stop, and waited for."""
    child = await Child.start(command_line(_arguments(path)))
    async with create_task_group() as group:
        group.start_soon(_attend, child)
        yield child
        child.tell(SIGTERM, hurry=False)


async def _attend(child: Child) -> None:
    code = await child.run(Event())
    if not child.was_told:
        raise ChildProcessError(f"a worker of the tour has ended by itself, with {code}")


def _arguments(path: Path) -> list[str]:
    options = [f"--lease={LEASE}", f"--concurrency={CONCURRENCY}", "--log-level=critical"]
    return ["worker", "sitq.cli.demo.tasks:registry", f"--backend={path}", *options]


async def _show_results(voice: Voice, named: Named) -> None:
    voice.show([(name, await _end(handle)) for name, handle in named])


async def _end(handle: TaskHandle[Any]) -> object:
    try:
        return repr(await handle.result(timeout=LIMIT))
    except TaskCancelled:
        return "cancelled"
    except TaskFailed as failed:
        error = failed.result.error
        return f"failed: {'' if error is None else summary(error)}"


async def _until_running(handle: TaskHandle[Any]) -> None:
    with anyio.fail_after(LIMIT):
        async for task in handle.watch(interval=0.05):
            if task.state is not State.PENDING:
                return


async def _states(queue: TaskQueue) -> list[tuple[str, int]]:
    found = await queue.find(name=tasks.step.name)
    return sorted(Counter(str(task.state) for task in found).items())

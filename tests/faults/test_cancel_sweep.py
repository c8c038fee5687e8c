"""Every verb, cancelled at each of its checkpoints and at each stage of its transaction.

Whatever the moment and the kind of cancellation: the operation is whole or absent, no transaction
is open, nothing is leaked, and the same verb again answers as the store is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest

from .checkpoints import LONG, NATURES, WAYS, Attempt, both_natures, most_ways, until
from .stage import Stage, Template, held, is_posted, make_template
from .verbs import READS, WAITS, WRITES, WRITES_OF_QUEUE, Start

pytestmark = pytest.mark.anyio

VERBS = {**WRITES, **WRITES_OF_QUEUE, **READS}
SAMPLE = ("insert", "reserve", "settle", "handle.result")
"""In these every way of waiting is met; the other verbs are made of them."""


def ways(verb: str) -> list[tuple[str, str]]:
    if LONG or verb in SAMPLE:
        return WAYS
    return NATURES if verb in WRITES else [("asyncio", "task"), ("trio", "scope")]


CASES = [(verb, *way) for verb in VERBS for way in ways(verb)]
in_memory_too = pytest.mark.parametrize("folder", ["file", "memory"], indirect=True)
"""Not where a gate holds the writer: in memory it reads too, and many verbs read first."""
every_write = pytest.mark.parametrize("verb", {**WRITES, **WRITES_OF_QUEUE} if LONG else WRITES)


@dataclass(frozen=True)
class Story:
    """What a verb answers and leaves in the store when nobody cancels it, at first and again."""

    states: list[Any]
    answers: list[Any]

    @classmethod
    async def of(cls, start: Start, stage: Stage) -> Story:
        states, answers = [stage.snapshot()], []
        for _ in range(2):
            answers.append(await answer_of(start, stage))
            states.append(stage.snapshot())
        return cls(states, answers)


@pytest.fixture(scope="module")
def template(quick_folder: Path) -> Template:
    return anyio.run(make_template, quick_folder / "tasks.db")


@pytest.fixture(scope="module")
def stories() -> dict[tuple[str, str], Story]:
    return {}


@pytest.fixture
def folder(request: pytest.FixtureRequest, quick_folder: Path) -> Path | None:
    """Of the stores; None: they are in memory."""
    return None if getattr(request, "param", "file") == "memory" else quick_folder


class Sweep:
    """One verb, to be cancelled again and again, each time in a fresh store."""

    def __init__(self, template: Template, folder: Path | None, start: Start, story: Story) -> None:
        self.story = story
        self.start = start
        self._template = template
        self._folder = folder

    @asynccontextmanager
    async def stage(self) -> AsyncGenerator[Stage]:
        async with self._template.stage(self._folder) as stage:
            yield stage
            await stage.is_usable()

    async def check(self, stage: Stage, attempt: Attempt, *, done: bool | None = None) -> None:
        """The operation is whole or absent, and the same verb again agrees with the store."""
        await stage.is_whole()
        now = stage.snapshot()
        assert now in self.story.states[:2]
        times = self.story.states.index(now)
        if done is not None:
            assert now == self.story.states[done]
        if not attempt.cancelled:
            assert now == self.story.states[1]
            assert plain(attempt, stage) == self.story.answers[0]
        assert {task.seq for task in stage.delivered} == stage.running()
        assert await answer_of(self.start, stage) == self.story.answers[times]
        assert stage.snapshot() == self.story.states[times + 1]


@pytest.fixture
async def sweep(
    template: Template, stories: dict[tuple[str, str], Story], verb: str, folder: Path | None
) -> Sweep:
    key = (verb, str(folder))
    if key not in stories:
        async with template.stage(folder) as stage:
            stories[key] = await Story.of(VERBS[verb], stage)
    return Sweep(template, folder, VERBS[verb], stories[key])


async def answer_of(start: Start, stage: Stage) -> Any:
    return plain(await Attempt("scope", partial(start, stage)).run(), stage)


def plain(attempt: Attempt, stage: Stage) -> Any:
    return stage.plain(attempt.answer if attempt.error is None else attempt.error)


@in_memory_too
@pytest.mark.parametrize(("verb", "anyio_backend", "kind"), CASES)
async def test_cancelled_at_every_checkpoint(sweep: Sweep, verb: str, kind: str) -> None:
    for at in count(0 if LONG or verb in SAMPLE else 1):
        async with sweep.stage() as stage:
            attempt = await Attempt(kind, partial(sweep.start, stage), at).run()
            await sweep.check(stage, attempt)
        if not attempt.hit:
            break
    assert at > 1


@both_natures
@every_write
async def test_cancelled_in_the_mailbox(sweep: Sweep, kind: str) -> None:
    async with sweep.stage() as stage, anyio.create_task_group() as group:
        attempt = Attempt(kind, partial(sweep.start, stage))
        async with stage.committing():
            group.start_soon(attempt.run)
            await until(lambda: bool(stage.opened.commit._mailbox))
            attempt.cancel()
            await until(lambda: attempt.ended)
        assert attempt.cancelled
        await sweep.check(stage, attempt, done=False)


@both_natures
@every_write
async def test_cancelled_before_the_transaction_runs(sweep: Sweep, kind: str) -> None:
    async with sweep.stage() as stage, anyio.create_task_group() as group:
        attempt = Attempt(kind, partial(sweep.start, stage))
        with held(stage.opened.writer):
            group.start_soon(attempt.run)
            await until(partial(is_posted, stage.opened))
            attempt.cancel()
            await until(lambda: attempt.ended)
        assert attempt.cancelled
        await sweep.check(stage, attempt, done=True)


@both_natures
@pytest.mark.parametrize("soon", [False, True])
@every_write
async def test_cancelled_when_the_transaction_has_run(sweep: Sweep, kind: str, soon: bool) -> None:
    """Before its answer has arrived, and after that but before the caller goes on."""
    async with sweep.stage() as stage, anyio.create_task_group() as group:
        attempt = Attempt(kind, partial(sweep.start, stage))
        with held(stage.opened.writer):
            group.start_soon(attempt.run)
            await until(partial(is_posted, stage.opened))
        stage.run_out(stage.opened.writer)
        if soon:
            stage.opened.writer.soon(attempt.cancel)
        else:
            attempt.cancel()
        await until(lambda: attempt.ended)
        assert attempt.cancelled or soon
        await sweep.check(stage, attempt, done=True)


@in_memory_too
@both_natures
@pytest.mark.parametrize("moment", ["posted", "run", "answered"])
@pytest.mark.parametrize("verb", ["get", "ended", "queue.get_result-wait"])
async def test_cancelled_look(sweep: Sweep, kind: str, moment: str) -> None:
    async with sweep.stage() as stage, anyio.create_task_group() as group:
        attempt = Attempt(kind, partial(sweep.start, stage))
        with held(stage.opened.reader):
            group.start_soon(attempt.run)
            await until(lambda: attempt.passed == 1)
            if moment == "posted":
                attempt.cancel()
                await until(lambda: attempt.ended)
        stage.run_out(stage.opened.reader)
        if moment == "run":
            attempt.cancel()
        elif moment == "answered":
            stage.opened.reader.soon(attempt.cancel)
        await until(lambda: attempt.ended)
        assert attempt.cancelled or moment == "answered"
        await sweep.check(stage, attempt)


@most_ways
@pytest.mark.parametrize("verb", WAITS)
async def test_cancelled_wait(template: Template, quick_folder: Path, verb: str, kind: str) -> None:
    """It leaves no waiter behind, and the task that it waited for goes on."""
    start, answer = WAITS[verb]
    steps = 1 if verb == "changed" else 2
    for at in count():
        async with template.stage(quick_folder) as stage, anyio.create_task_group() as group:
            before = stage.snapshot()
            attempt = Attempt(kind, partial(start, stage), at)
            again = Attempt("scope", partial(start, stage))
            group.start_soon(attempt.run)
            await until(lambda: attempt.ended or attempt.passed == steps)  # noqa: B023
            assert stage.snapshot() == before
            group.start_soon(again.run)
            await until(lambda: stage.waits() == 2 - attempt.ended - again.ended)  # noqa: B023
            await stage.settle_running()
            await until(lambda: attempt.ended and again.ended)  # noqa: B023
            assert attempt.cancelled or stage.plain(attempt.answer) == answer
            assert stage.plain(again.answer) == answer
            assert stage.waits() == 0
            await stage.is_whole()
        if not attempt.hit:
            break
    assert at > steps


@most_ways
async def test_cancelled_purge(
    template: Template, quick_folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was deleted before stays deleted; the rest is deleted by the next one."""
    monkeypatch.setattr("sitq.queue.PRUNE_BATCH", 1)
    for at in count():
        async with template.stage(quick_folder) as stage:
            attempt = await Attempt(kind, stage.queue.purge, at).run()
            await stage.is_whole()
            left = len(stage.ended())
            assert attempt.cancelled or (attempt.answer, left) == (2, 0)
            assert await stage.queue.purge() == left
            assert not stage.ended()
        if not attempt.hit:
            break
    assert at > 3

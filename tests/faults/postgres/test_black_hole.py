"""The line goes silent: no reset, no answer, for whoever uses it and for whoever connects."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest

from sitq import State, TaskQueue
from sitq.backends.postgres import PostgresBackend
from sitq.errors import SitqError, StoreError, StoreUnavailable

from ...postgres import server_url
from ..stage import RECORD
from .company import company, notes, runs
from .proxy import Proxy
from .stage import Stage, Template, make_template
from .verbs import PLAIN_READS, WRITES

pytestmark = pytest.mark.anyio

ANSWER, OUTAGE = 1.0, 1.0
BOUND = ANSWER + OUTAGE + 4.0
"""Seconds: the last try begins within the outage limit, waits for a connection, and an answer."""
VERBS = {**WRITES, **PLAIN_READS}
OTHERS = tuple(kind for kind in SitqError.__subclasses__() if kind is not StoreError)
"""What a verb may say that was answered."""
one_loop = pytest.mark.parametrize("anyio_backend", ["trio"])
"""For tests that wait for seconds, of what happens in threads."""


@pytest.fixture
async def template(schema: str) -> Template:
    return await make_template(schema)


@pytest.fixture
async def stage(template: Template, proxy: Proxy) -> AsyncIterator[Stage]:
    backend = PostgresBackend(
        proxy.url, schema=template.schema, answer_limit=ANSWER, outage_limit=OUTAGE
    )
    with psycopg.connect(server_url(), autocommit=True) as stranger:
        async with backend:
            yield Stage(template, backend, stranger)


async def answers(stage: Stage, seconds: float = 2 * BOUND) -> dict[str, Any]:
    """What every verb answers, all at the same time: some wait for a batch before theirs."""
    found: dict[str, Any] = {}

    async def run(verb: str) -> None:
        try:
            found[verb] = await VERBS[verb](stage)
        except SitqError as error:
            found[verb] = error

    with anyio.fail_after(seconds):
        async with anyio.create_task_group() as group:
            for verb in VERBS:
                group.start_soon(run, verb)
    return found


@one_loop
async def test_every_verb_gives_up_in_time(stage: Stage, proxy: Proxy) -> None:
    await stage.backend.counts()
    proxy.swallow()
    found = await answers(stage)
    assert not [verb for verb, answer in found.items() if not isinstance(answer, StoreUnavailable)]
    proxy.heal()
    with suppress(StoreUnavailable):  # a connection that was begun in the dark is waited for
        await stage.backend.counts()
    await stage.backend.counts()


@one_loop
async def test_every_verb_takes_a_new_line(stage: Stage, proxy: Proxy) -> None:
    """The line that there is goes silent for good, new ones are whole."""
    await stage.backend.counts()
    proxy.swallow(new=False)
    with anyio.fail_after(BOUND):
        with suppress(StoreUnavailable):
            await stage.backend.counts()
        await stage.backend.counts()
    stage.template.restore(stage.stranger)
    for verb in VERBS:  # in turn: at once, they would wait for each other's rows
        with anyio.fail_after(BOUND), suppress(*OTHERS):
            await VERBS[verb](stage)


@one_loop
async def test_many_callers_give_up_in_time(stage: Stage, proxy: Proxy) -> None:
    """However many wait for a thread."""
    await stage.backend.counts()
    proxy.swallow()
    errors: list[Exception] = []

    async def run() -> None:
        with pytest.raises(StoreUnavailable) as info:
            await stage.queue.counts()
        errors.append(info.value)

    with anyio.fail_after(2 * BOUND):
        async with anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(run)
    assert len(errors) == 60


@one_loop
async def test_opening_gives_up_in_time(proxy: Proxy, schema: str) -> None:
    proxy.swallow()
    backend = PostgresBackend(proxy.url, schema=schema, answer_limit=ANSWER, outage_limit=OUTAGE)
    with anyio.fail_after(BOUND), pytest.raises(StoreUnavailable):
        await backend.open()


@pytest.mark.parametrize("new", [True, False], ids=["all lines", "old lines"])
async def test_closed_while_nothing_answers(new: bool, proxy: Proxy, schema: str) -> None:
    backend = PostgresBackend(proxy.url, schema=schema, answer_limit=ANSWER, outage_limit=OUTAGE)
    errors: list[Exception] = []

    async def enqueue() -> None:
        try:
            await TaskQueue(backend).enqueue(notes, "text")
        except StoreUnavailable as error:
            errors.append(error)

    async with backend:
        await enqueue()
        proxy.swallow(new=new)
        async with anyio.create_task_group() as group:
            group.start_soon(enqueue)
            group.start_soon(enqueue)
            await anyio.sleep(0.05)
            with anyio.fail_after(2 * BOUND):
                await backend.close()
    assert len(errors) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name == "sitq-listen"]


@one_loop
async def test_a_worker_goes_on_when_the_line_is_back(proxy: Proxy, schema: str) -> None:
    options = {"answer_limit": ANSWER, "outage_limit": OUTAGE}
    async with company(proxy.url, schema, lease=30, **options) as firm:
        await firm.runs_soon("before")
        proxy.swallow()
        await firm.others.enqueue(notes, "in the dark")
        await anyio.sleep(2.5)
        assert runs == ["before"]
        proxy.heal()
        with anyio.fail_after(10):
            while len(runs) < 2:
                await anyio.sleep(0.01)
        await firm.runs_soon("after", 3)
        with anyio.fail_after(10):
            while (await firm.others.counts())[State.SUCCEEDED] < 3:
                await anyio.sleep(0.05)
    assert runs == ["before", "in the dark", "after"]


async def test_a_listener_whose_line_is_dead_listens_again(proxy: Proxy, schema: str) -> None:
    options = {"answer_limit": ANSWER, "outage_limit": OUTAGE}
    async with company(proxy.url, schema, lease=30, **options) as firm:
        await firm.runs_soon("before")
        listening = firm.pids("listener")
        proxy.swallow(new=False)
        for number in range(3):
            await firm.runs_soon(f"after {number}", 2 * BOUND)
        with anyio.fail_after(10):
            while not set(firm.pids("listener")) - set(listening):
                await anyio.sleep(0.05)
        started = anyio.current_time()
        await firm.runs_soon("told")
        assert anyio.current_time() - started < 0.9, "it was found by looking, not by listening"


@one_loop
async def test_a_heart_beats_in_time_though_its_line_is_dead(proxy: Proxy, schema: str) -> None:
    async with PostgresBackend(proxy.url, schema=schema, answer_limit=ANSWER * 20) as backend:
        heart = backend.heart(await backend.hire(RECORD._replace(lease=1.5)))
        assert heart is not None
        try:
            assert await anyio.to_thread.run_sync(heart.beat, 0.0)
            proxy.swallow(new=False)
            started = anyio.current_time()
            assert await anyio.to_thread.run_sync(heart.beat, 0.0)
            assert anyio.current_time() - started < 1.5
        finally:
            heart.close()
            proxy.cut()

"""The line breaks at every statement of every verb: before the server hears of it, or after."""

from __future__ import annotations

from itertools import count
from typing import Any

import anyio
import psycopg
import pytest

from sitq.backends.postgres import PostgresBackend
from sitq.errors import StoreUnavailable

from .proxy import Proxy
from .stage import Stage, Template
from .verbs import MAYBE, WRITES, Start

pytestmark = pytest.mark.anyio

MOST = 60
"""No verb makes so many statements."""


async def attempt(start: Start, stage: Stage) -> Any:
    stage.template.restore(stage.stranger)
    stage.delivered.clear()
    stage.settled.clear()
    with anyio.fail_after(20):
        return stage.plain(await start(stage))


@pytest.mark.parametrize(
    ("anyio_backend", "warm"),
    [("asyncio", False), ("trio", True)],
    ids=["asyncio, at first", "trio, prepared"],
)
@pytest.mark.parametrize("verb", WRITES)
async def test_no_answer_contradicts_the_store(
    verb: str, warm: bool, template: Template, stranger: psycopg.Connection[Any], proxy: Proxy
) -> None:
    start = WRITES[verb]
    backend = PostgresBackend(proxy.url, schema=template.schema, answer_limit=5, outage_limit=5)
    async with backend:
        stage = Stage(template, backend, stranger)
        template.restore(stranger)
        before = stage.snapshot()
        for _ in range(6 if warm else 1):
            answer = await attempt(start, stage)
        after = stage.snapshot()
        for number in count():
            for done in (True, False):
                lost = proxy.lost
                proxy.lose(done=done, skip=number)
                try:
                    assert await attempt(start, stage) == answer, (number, done)
                    # A sweep that was cut off may hold up the next: that leaves it to a later one.
                    ends = (before, after) if verb == "recover" else (after,)
                    assert stage.snapshot() in ends, (number, done)
                except StoreUnavailable:
                    assert verb in MAYBE, (number, done)
                    assert stage.snapshot() in (before, after), (number, done)
                proxy.keep()
                held = [(task.seq, task.fence) for task in stage.delivered]
                assert sorted(held) == stage.held(), (number, done)
            if proxy.lost == lost:
                break
            assert number < MOST

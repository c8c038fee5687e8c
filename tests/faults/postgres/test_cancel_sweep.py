"""Every verb, cancelled at each of its checkpoints: it is whole or absent, and nothing is left.

No connection is left in a transaction, no reservation without an owner, and the same verb again
answers as the store is.
"""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import Any

import anyio
import psycopg
import pytest

from sitq.backends.postgres import PostgresBackend
from sitq.errors import SitqError

from ...postgres import server_url
from ..checkpoints import LONG, NATURES, WAYS, Attempt, nothing_leaked
from .stage import Stage, Template
from .verbs import PLAIN_READS, WRITES

pytestmark = pytest.mark.anyio

VERBS = {**WRITES, **PLAIN_READS}
SAMPLE = ("insert", "insert keyed", "reserve", "settle", "settle child", "cancel", "ended")


def ways(verb: str) -> list[tuple[str, str]]:
    if LONG or verb in SAMPLE:
        return WAYS
    return NATURES[1:] if verb in WRITES else NATURES[-1:]


CASES = [(verb, *way) for verb in VERBS for way in ways(verb)]


async def answer_of(stage: Stage, verb: str) -> Any:
    try:
        return stage.plain(await VERBS[verb](stage))
    except SitqError as error:
        return type(error)


async def settled_down(stage: Stage, name: str) -> None:
    """Wait until nothing is under way."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s "
        "AND state IN ('active', 'idle in transaction', 'idle in transaction (aborted)')"
    )
    opened = stage.backend._opened
    assert opened is not None
    with anyio.fail_after(10):
        while opened.driver._posted or stage.stranger.execute(query, (name,)).fetchone() != (0,):
            await anyio.sleep(0.0005)
    await opened.inserts.drained()


@pytest.mark.parametrize(("verb", "anyio_backend", "kind"), CASES)
async def test_cancelled_at_every_checkpoint(
    verb: str, kind: str, template: Template, stranger: psycopg.Connection[Any]
) -> None:
    name = f"{template.schema}_cancel"
    separator = "&" if "?" in server_url() else "?"
    url = f"{server_url()}{separator}application_name={name}"
    async with nothing_leaked(), PostgresBackend(url, schema=template.schema) as backend:
        states, answers = [], []
        stage = Stage(template, backend, stranger)
        template.restore(stranger)
        states.append(stage.snapshot())
        for _ in range(2):
            answers.append(await answer_of(stage, verb))
            states.append(stage.snapshot())
        for at in count():
            template.restore(stranger)
            stage.delivered.clear()
            attempt = await Attempt(kind, partial(VERBS[verb], stage), at).run()
            await settled_down(stage, name)
            now = stage.snapshot()
            assert now in states[:2], at
            if not attempt.cancelled:
                assert now == states[1], at
                assert stage.plain(attempt.answer) == answers[0], at
            held = [(task.seq, task.fence) for task in stage.delivered]
            assert sorted(held) == stage.held(), at
            times = states.index(now)
            assert await answer_of(stage, verb) == answers[times], at
            assert stage.snapshot() == states[times + 1], at
            if not attempt.hit:
                break
    assert at > 1

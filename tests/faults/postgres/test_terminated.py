"""An administrator ends connections: others take their place, and work goes on."""

from __future__ import annotations

import random
from functools import partial

import anyio
import pytest

from sitq import TaskQueue

from .company import Company, company, notes, runs
from .proxy import Proxy

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kind", ["pool", "listener", "heartbeat", "all"])
async def test_work_goes_on(kind: str, proxy: Proxy, schema: str) -> None:
    async with company(proxy.url, schema) as firm:
        await firm.runs_soon("before")
        [worker] = await firm.backend.workers()
        for number in range(2):
            ended = await firm.terminate(kind)
            assert ended
            await firm.runs_soon(f"after {number}", 4)
        with anyio.fail_after(10):
            while not (firm.pids("heartbeat") and firm.pids("listener")):
                await anyio.sleep(0.01)
        assert [one.id for one in await firm.backend.workers()] == [worker.id]
    assert runs == ["before", "after 0", "after 1"]


async def test_a_storm_of_ends(proxy: Proxy, schema: str) -> None:
    tasks = [f"task {number}" for number in range(120)]
    async with company(proxy.url, schema) as firm:
        queue = TaskQueue(firm.backend)
        async with anyio.create_task_group() as group:
            group.start_soon(_storm, firm)
            async with anyio.create_task_group() as callers:
                for number, text in enumerate(tasks):
                    function = notes.using(key=text if number % 2 else None)
                    callers.start_soon(partial(queue.enqueue, function, text))
                    await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        with anyio.fail_after(20):
            while len(runs) < len(tasks):
                await anyio.sleep(0.01)
        assert len(await queue.find(limit=1_000)) == len(tasks)
    assert sorted(runs) == sorted(tasks)


async def _storm(firm: Company) -> None:
    rng = random.Random(3)
    while True:
        pids = firm.pids("all")
        if pids:
            firm.stranger.execute("SELECT pg_terminate_backend(%s)", (rng.choice(pids),))
        await anyio.sleep(0.02)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_quiet_listener_keeps_its_line(proxy: Proxy, schema: str) -> None:
    """However small the answer limit: nobody owes it an answer."""
    async with company(proxy.url, schema, answer_limit=1, lease=30) as firm:
        await firm.runs_soon("before")
        with anyio.fail_after(5):
            while not firm.pids("listener"):
                await anyio.sleep(0.01)
        made = proxy.accepted
        await anyio.sleep(3.5)
        assert proxy.accepted == made

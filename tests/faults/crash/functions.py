"""The task functions of the crash tests. Each notes when it begins and how it ends."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel

from sitq import Registry, Retry, current_task
from sitq.context import running_task
from sitq.model import Reservation

from .failpoints import hit
from .journal import Journal
from .zygote import say, wait_at

registry = Registry()
runs: list[Journal] = []
"""The journal of this process, if it is a worker."""

staying: list[str] = []
meeting: list[str] = []
"""Tokens of what has begun in this process, of functions that others wait for."""

ATTEMPTS = 3


@contextmanager
def recorded(token: str) -> Iterator[None]:
    """Note the beginning and the end of a run, with the fence that it runs under."""
    [journal] = runs
    task = _reservation()
    about = {"token": token, "seq": task.seq, "fence": task.fence, "pid": os.getpid()}
    journal.write(op="start", attempt=current_task().attempt, **about)
    how = "returned"
    try:
        yield
    except BaseException as error:
        how = "raised" if isinstance(error, Exception) else "was cancelled"
        raise
    finally:
        journal.write(op="end", how=how, **about)


def _reservation() -> Reservation:
    run: Any = running_task.get()
    return run.task


@registry.task(name="plain")
async def plain(token: str) -> str:
    with recorded(token):
        await anyio.sleep(random.uniform(0, 0.004))
        hit("running")
        await anyio.sleep(random.uniform(0, 0.004))
        return token


@registry.task(name="thread")
def thread(token: str) -> str:
    with recorded(token):
        time.sleep(random.uniform(0, 0.004))
        hit("running")
        return token


@registry.task(name="flaky", retry=Retry(attempts=ATTEMPTS, base=0.01, cap=0.05))
async def flaky(token: str, failures: int) -> str:
    """Fail so many times before it succeeds."""
    with recorded(token):
        await anyio.sleep(random.uniform(0, 0.002))
        if current_task().attempt <= failures:
            raise OSError("not yet")
        hit("running")
        return token


@registry.task(name="big")
async def big(token: str, body: bytes) -> bytes:
    """Bring back what stands beside the rows, arguments and result."""
    with recorded(token):
        await anyio.sleep(random.uniform(0, 0.002))
        hit("running")
        return body


@registry.task(name="slow")
async def slow(token: str) -> str:
    """Long enough to be cancelled while it runs."""
    with recorded(token):
        await anyio.sleep(random.uniform(0.05, 0.5))
        return token


@registry.task(name="poison", priority=1)
async def poison(token: str) -> None:
    """Take the worker down."""
    with recorded(token):
        await anyio.lowlevel.checkpoint()
        os.abort()


@registry.task(name="stays")
async def stays(token: str) -> str:
    """Run for ever the first time, and end at once when it is reserved again."""
    with recorded(token):
        fence = _reservation().fence
        say(f"stays {fence}")
        staying.append(token)
        if fence == 1:
            await anyio.sleep_forever()
        return token


@registry.task(name="blocks")
async def blocks(token: str, barrier: str) -> str:
    """Block the event loop at a barrier the first time, while another task stays; then return."""
    with recorded(token):
        if _reservation().fence == 1:
            while not staying:
                await anyio.lowlevel.checkpoint()
            wait_at(barrier)
        return token


@registry.task(name="meets")
async def meets(token: str, number: int) -> str:
    """Wait until so many of these have begun in this process."""
    with recorded(token):
        meeting.append(token)
        while len(meeting) < number:
            await anyio.lowlevel.checkpoint()
        return token

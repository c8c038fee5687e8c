"""The process that enqueues: it notes what it is about to enqueue, and what was acknowledged."""

from __future__ import annotations

import itertools
import random
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio

from sitq import Call, State, TaskQueue
from sitq.errors import KeyTaken, TaskNotFound, WrongState

from . import functions as f
from .journal import Journal, records

CALLERS = 3
"""So many share the connection, so that their enqueues share transactions."""
PAUSE = 0.06
"""The longest pause between two things that a caller does, in seconds."""
BACKLOG = 400
"""Pending tasks above which nothing is enqueued."""
KINDS = {"plain": 30, "thread": 10, "flaky": 15, "late": 10, "keyed": 25, "big": 10, "slow": 15}
"""How often each kind of task is enqueued."""
BATCH = 12
"""Calls that are enqueued together, at the most."""


class Enqueuer:
    """Enqueues, cancels and revives, from several callers.

    Args:
        queue: where.
        path: of the journal; what an earlier process left in it is taken up.
        name: unique for each process; tokens of its tasks begin with it.
    """

    def __init__(self, queue: TaskQueue, path: Path, name: str) -> None:
        self._queue = queue
        self._unanswered = _unanswered_keys(path)
        self._journal = Journal(path)
        self._name = name
        self._numbers = itertools.count()
        self._known: deque[UUID] = deque(maxlen=20)
        self._cancelled: deque[UUID] = deque(maxlen=20)

    async def repeat(self) -> None:
        """Enqueue again, with the same keys, what an earlier process got no answer for."""
        for token in self._unanswered:
            await self._enqueue(["keyed"], [token])

    async def go_on(self) -> None:
        """Enqueue until the process is killed."""
        async with anyio.create_task_group() as callers:
            for _ in range(CALLERS):
                callers.start_soon(self._call)

    async def _call(self) -> None:
        while True:
            await anyio.sleep(random.uniform(0, PAUSE))
            what = random.random()
            if what < 0.1:
                await self._cancel()
            elif what < 0.2:
                await self._revive()
            elif (await self._queue.counts())[State.PENDING] < BACKLOG:
                await self._enqueue_some(1 if what < 0.85 else random.randint(2, BATCH))

    async def _enqueue_some(self, count: int) -> None:
        kinds = random.choices(list(KINDS), list(KINDS.values()), k=count)
        if count > 1:  # a batch is never repeated, so it has no keys
            kinds = ["plain" if kind == "keyed" else kind for kind in kinds]
        await self._enqueue(kinds, [f"<{self._name}.{next(self._numbers)}>" for _ in kinds])

    async def _enqueue(self, kinds: list[str], tokens: list[str]) -> None:
        calls = [_bound(kind, token) for kind, token in zip(kinds, tokens, strict=True)]
        self._journal.write(op="try", tokens=tokens, kinds=kinds)
        if len(calls) == 1:
            handles = [await self._queue.enqueue(calls[0].function, *calls[0].args)]
        else:
            handles = await self._queue.enqueue_many(calls)
        ids = [handle.id for handle in handles]
        self._journal.write(op="ack", tokens=tokens, ids=[id.hex for id in ids])
        self._known.extend(ids)

    async def _cancel(self) -> None:
        if self._known:
            id = random.choice(self._known)
            with suppress(TaskNotFound):
                if await self._queue.cancel(id):
                    self._cancelled.append(id)

    async def _revive(self) -> None:
        if self._cancelled:
            with suppress(TaskNotFound, WrongState, KeyTaken):
                await self._queue.retry(random.choice(self._cancelled))


def _bound(kind: str, token: str) -> Call[Any]:
    if kind == "flaky":
        return f.flaky.call(token, random.randint(0, f.ATTEMPTS))
    if kind == "late":
        return f.plain.using(delay=random.uniform(0, 1)).call(token)
    if kind == "keyed":
        return f.plain.using(delay=random.uniform(0, 2), key=token).call(token)
    if kind == "big":
        return f.big.call(token, random.randbytes(random.randint(1_500, 6_000)))
    return {"plain": f.plain, "thread": f.thread, "slow": f.slow}[kind].call(token)


def _unanswered_keys(path: Path) -> list[str]:
    keyed: dict[str, None] = {}
    for record in records(path):
        for token in record["tokens"]:
            if record["op"] == "ack":
                keyed.pop(token, None)
            elif record["kinds"] == ["keyed"]:
                keyed[token] = None
    return list(keyed)

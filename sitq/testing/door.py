"""Calls a backend from a plain function: each verb runs on an event loop in another thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TypeVar

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from sitq.backends.base import Backend
from sitq.model import TaskRow

__all__ = ["PATIENCE", "Door"]

T = TypeVar("T")
Verb = Callable[[Backend], Awaitable[T]]

PATIENCE = 60.0
"""Seconds after which a call that must return is taken to hang; many, for machines that stall."""


class Door:
    """The way to backends on one event loop.

    Args:
        loop: ``"asyncio"`` or ``"trio"``.
    """

    def __init__(self, loop: str) -> None:
        self._portals = start_blocking_portal(backend=loop)
        self._portal: BlockingPortal = self._portals.__enter__()
        self._backends: list[Backend] = []
        self._turn = 0

    def open(self, *backends: Backend) -> None:
        """Open backends, all of the same store. The verbs go to one after the other."""
        for backend in backends:
            self._portal.call(backend.open)
            self._backends.append(backend)

    def close(self) -> None:
        """Close what is open and end the event loop."""
        try:
            while self._backends:
                self._portal.call(self._backends.pop().close)
        finally:
            self._portals.__exit__(None, None, None)

    def any(self) -> Backend:
        """One of the backends, the next in turn."""
        self._turn += 1
        return self._backends[self._turn % len(self._backends)]

    def __call__(self, verb: Verb[T]) -> T:
        """What a verb answers."""
        return self._portal.call(self._answer, verb)

    def plainly(self, call: Callable[..., T], *args: object) -> T:
        """What a plain function answers that is called on the event loop."""
        return self._portal.call(call, *args)

    def waking(self, verb: Verb[T], wakes: Callable[[T], bool]) -> T:
        """What a verb answers that may bring work: then whoever waits for that must wake."""
        return self._portal.call(self._waking, verb, wakes)

    def watch(self, id: bytes) -> Future[TaskRow | None]:
        """Begin to wait for the end of a task."""
        return self._portal.start_task_soon(self.any().ended, id)

    async def _answer(self, verb: Verb[T]) -> T:
        with anyio.fail_after(PATIENCE):
            return await verb(self.any())

    async def _waking(self, verb: Verb[T], wakes: Callable[[T], bool]) -> T:
        waiting = self.any()
        token = waiting.token()
        woken = anyio.Event()
        answers: list[T] = []

        async def wait() -> None:
            await waiting.changed(token)
            woken.set()

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            answers.append(await self._answer(verb))
            if wakes(answers[0]):
                with anyio.fail_after(PATIENCE):
                    await waiting.changed(token)
                    await woken.wait()
            group.cancel_scope.cancel()
        return answers[0]

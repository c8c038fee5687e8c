"""Keeps worker processes running. It imports no application, and opens no store."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from random import Random

import anyio
from anyio import Event, create_task_group

from sitq.cli.child import Child, command_line
from sitq.cli.store import WRONG
from sitq.retry import Retry
from sitq.worker.signals import Signals, receive

__all__ = ["Supervisor"]

logger: logging.Logger = logging.getLogger("sitq.supervisor")

BACKOFF = Retry(base=0.5, cap=30.0)
"""The seconds until another process is started, by how many have ended one after the other."""
HEALTHY = 60.0
"""Seconds that a process has run, after which its end counts as the first."""
RELOAD_GRACE = 2.0
"""Seconds for running tasks when the code has changed."""


class Supervisor:
    """Runs so many worker processes until a signal, and starts another when one ends.

    Args:
        arguments: the command line of each, after ``sitq``.
        processes: how many.
    """

    def __init__(self, arguments: Sequence[str], processes: int) -> None:
        self._command = command_line(arguments)
        self._processes = processes
        self._crew = Crew(self._command, processes)
        self._changed = Event()
        self._stopping = Event()

    async def run(self, changes: Callable[[Event], AsyncIterator[str]] | None = None) -> int:
        """Run until a signal, and tell the exit code: 0, or the highest of the processes.

        Args:
            changes: names what has changed, until the event: then all processes are started anew.
        """
        with receive() as signals:
            async with create_task_group() as group:
                group.start_soon(self._obey, signals)
                if changes is None:
                    await self._crew.run()
                else:
                    group.start_soon(self._follow, changes(self._stopping))
                    await self._run_crews()
                group.cancel_scope.cancel()
        return self._crew.code()

    async def _obey(self, signals: Signals) -> None:
        async for received in signals:
            logger.info("stops: signal received signal=%s", received.name)
            self._stopping.set()
            self._crew.end(received)
            self._changed.set()

    async def _run_crews(self) -> None:
        """One crew after the other, each with the code as it is then."""
        while True:
            await self._crew.run()
            if self._crew.is_wrong and not self._changed.is_set():
                logger.info("waits for a change")
                await self._changed.wait()
            if self._stopping.is_set():
                return
            self._changed = Event()
            self._crew = Crew(self._command, self._processes)

    async def _follow(self, changes: AsyncIterator[str]) -> None:
        async for name in changes:
            if not self._stopping.is_set():
                logger.info("starts again: %s has changed", name)
                await self._replace_crew()

    async def _replace_crew(self) -> None:
        crew = self._crew
        self._changed.set()
        crew.end(signal.SIGTERM)
        with anyio.move_on_after(RELOAD_GRACE):
            await crew.ended.wait()
        if not crew.ended.is_set():
            crew.end(signal.SIGTERM)


class Crew:
    """Processes that are started together, kept running, and ended together.

    Args:
        command: starts one.
        size: how many.
    """

    def __init__(self, command: Sequence[str], size: int) -> None:
        self._command = command
        self._size = size
        self._rng = Random()
        self._children: set[Child] = set()
        self._codes: list[int] = []
        self._signals: list[signal.Signals] = []
        self._one_is_loaded = Event()
        self._ending = Event()
        self.ended: Event = Event()
        self.is_wrong: bool = False
        """Whether the command turned out to be written wrongly."""

    async def run(self) -> None:
        """Run until `end` was called, or the command turns out to be written wrongly."""
        async with create_task_group() as group:
            group.start_soon(self._keep_one)
            await self._one_is_loaded.wait()  # so what is wrong is told once
            for _ in range(self._size - 1):
                group.start_soon(self._keep_one)
        self.ended.set()

    def end(self, number: signal.Signals) -> None:
        """Send a signal to all, and start none again. After a second one they get no grace."""
        self._signals.append(number)
        self._ending.set()
        self._one_is_loaded.set()
        for child in self._children:
            self._tell(child)

    def code(self) -> int:
        """The exit code: the highest of the processes that were ended; or that it is wrong."""
        return WRONG if self.is_wrong else max(self._codes, default=0)

    async def _keep_one(self) -> None:
        """A process, and another when it ends."""
        failures = 0
        while not self._ending.is_set():
            began = anyio.current_time()
            await self._run_one()
            failures = 1 if anyio.current_time() - began >= HEALTHY else failures + 1
            if not self._ending.is_set():
                delay = BACKOFF.delay(failures, self._rng)
                logger.info("starts another process in=%.1f", delay)
                with anyio.move_on_after(delay):
                    await self._ending.wait()

    async def _run_one(self) -> None:
        try:
            child = await Child.start(self._command)
        except OSError as error:
            logger.error("cannot start a process: %s", error)
            return
        self._children.add(child)
        try:
            if self._ending.is_set():
                self._tell(child)
            code = await child.run(self._one_is_loaded)
        finally:
            self._children.discard(child)
        self._note_end(child, code)

    def _tell(self, child: Child) -> None:
        child.tell(self._signals[-1], hurry=len(self._signals) > 1)

    def _note_end(self, child: Child, code: int) -> None:
        if self._ending.is_set():
            # One that has no worker yet ends by the signal itself.
            before_work = len(self._signals) == 1 and code == 128 + self._signals[0]
            self._codes.append(0 if before_work else code)
        elif code == WRONG and not child.is_loaded:  # it would be so again
            self.is_wrong = True
            self.end(signal.SIGTERM)

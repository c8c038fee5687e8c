"""A worker process, as its supervisor holds it."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

import anyio
from anyio import CancelScope, Event, create_task_group
from anyio.abc import Process

from sitq.cli.tether import grace_told
from sitq.errors import UsageError
from sitq.naming import signal_name

__all__ = ["Child", "command_line"]

logger: logging.Logger = logging.getLogger("sitq.supervisor")

MARGIN = 30.0
"""Seconds beyond its grace in which a process may end before it is killed."""


def command_line(arguments: Sequence[str]) -> list[str]:
    """What starts another process of sitq with these arguments.

    Raises:
        UsageError: this system cannot pass a socket to a process.
    """
    if os.name != "posix":
        raise UsageError("worker processes of the command line need a POSIX system")
    # Whatever the files here are called, a process is to find Python's own modules.
    safe = [] if os.getcwd() in sys.path else ["-P"]
    return [sys.executable, *safe, "-m", "sitq", *arguments]


class Child:
    """A worker process that runs, made by `start`."""

    def __init__(self, process: Process, tether: socket.socket) -> None:
        self._process = process
        self._tether = tether
        self._patience = CancelScope()
        self._told = self._hurried = math.inf
        self._grace = 0.0
        self.is_loaded: bool = False
        """Whether it has its application."""
        self.ended: Event = Event()

    @classmethod
    async def start(cls, command: Sequence[str]) -> Child:
        """Start one, in a session of its own: what is typed at a terminal is not sent to it.

        Raises:
            OSError: no process can be started.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await anyio.open_process(
                    [*command, f"--under={theirs.fileno()}"],
                    stdin=subprocess.DEVNULL,
                    stdout=None,
                    stderr=None,
                    start_new_session=True,
                    pass_fds=[theirs.fileno()],
                )
            except BaseException:
                ours.close()
                raise
        logger.info("process started pid=%d", process.pid)
        return cls(process, ours)

    @property
    def was_told(self) -> bool:
        """Whether it was told to end."""
        return self._told < math.inf

    async def run(self, loaded: Event) -> int:
        """Wait for its end, and tell its exit code: 128 + N if signal N has ended it.

        Args:
            loaded: is set when the process has its application.
        """
        with self._tether:
            async with self._process, create_task_group() as group:
                group.start_soon(self._listen, loaded)
                with self._patience:
                    await self._process.wait()
                if self._patience.cancelled_caught:
                    logger.error("killed: the process did not end pid=%d", self._process.pid)
                    self._process.kill()
                    await self._process.wait()
                group.cancel_scope.cancel()
        self.ended.set()
        return self._code()

    def tell(self, number: signal.Signals, *, hurry: bool) -> None:
        """Send it a signal, upon which it is to end: after its grace, or at once."""
        now = anyio.current_time()
        self._told = min(self._told, now)
        if hurry:
            self._hurried = min(self._hurried, now)
        self._set_patience()
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _listen(self, loaded: Event) -> None:
        grace = await grace_told(self._tether)
        if grace is not None:
            self._grace = grace
            self._set_patience()
            self.is_loaded = True
            loaded.set()

    def _set_patience(self) -> None:
        self._patience.deadline = MARGIN + min(self._told + self._grace, self._hurried)

    def _code(self) -> int:
        code, pid = self._process.returncode, self._process.pid
        assert code is not None
        if code >= 0:
            logger.log(
                logging.WARNING if code else logging.INFO, "process ended pid=%d code=%d", pid, code
            )
            return code
        logger.warning("process ended pid=%d signal=%s", pid, signal_name(-code))
        return 128 - code

"""Runs task functions in processes: each of its own, as long as it runs."""

from __future__ import annotations

import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
from anyio import CancelScope, CapacityLimiter, to_thread

from sitq.errors import ProcessLost, UsageError
from sitq.model import Outcome
from sitq.naming import signal_name
from sitq.registry import TaskFunction
from sitq.worker.outcome import untransferable
from sitq.worker.program import STOPS, Answer, Request, dumps, loads, this_program

__all__ = ["Processes"]

IDLE_LIMIT = 300.0
"""Seconds after which a process ends that has nothing to run."""
END_LIMIT = 2.0
"""Seconds in which processes end that have nothing to run, before they are killed."""

_START = (
    "import sys; sys.path[:] = sys.argv[2:]; from sitq.worker.child import main; "
    "main(int(sys.argv[1]))"
)


class Processes:
    """The processes of a worker: started when one is needed, used again, ended with the worker.

    They have no bound of their own: who has a slot has a process.
    """

    def __init__(self) -> None:
        self._idle: list[tuple[_Process, float]] = []
        """With the time since when; the one used last comes last, and is used first."""
        self._threads = CapacityLimiter(math.inf)

    async def __aenter__(self) -> Processes:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end(process for process, _ in self._idle)

    async def call(
        self, function: TaskFunction[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, Outcome | None]:
        """Call a function. If that is cancelled, its process is killed, with what it has started.

        Returns:
            What the function returned, or how it failed.

        Raises:
            ProcessLost: the process ended meanwhile.
            UsageError: this is Windows.
        """
        if sys.platform == "win32":
            raise UsageError("executor='process' needs processes as POSIX systems have them")
        process = self._take()
        ask = partial(_ask, process, function, args, kwargs)
        try:
            answer = await to_thread.run_sync(ask, limiter=self._threads, abandon_on_cancel=True)
        except BaseException:
            process.kill()
            await self._end([process])
            raise
        if answer is None:
            await self._end([process])
            process.kill()  # what it has left behind
            raise ProcessLost(f"the process that ran {function.name} {process.how_it_ended()}")
        self._idle.append((process, anyio.current_time()))
        return answer

    async def trim(self) -> None:
        """End the processes that had nothing to run for too long."""
        latest = anyio.current_time() - IDLE_LIMIT
        late = [process for process, since in self._idle if since <= latest]
        self._idle = [(process, since) for process, since in self._idle if since > latest]
        await self._end(late)

    def _take(self) -> _Process:
        while self._idle:
            process, _ = self._idle.pop()
            if process.is_alive():
                return process
            process.end(0.0)
        return _Process()

    async def _end(self, processes: Iterable[_Process]) -> None:
        leaving = list(processes)
        if leaving:
            with CancelScope(shield=True):
                await to_thread.run_sync(_end_all, leaving, limiter=self._threads)


class _Process:
    """A process that waits for something to run, or runs it. Its functions block, but for `kill`.

    It leads a session of its own, so that a Ctrl-C at the terminal of the worker does not reach it,
    and all that it starts ends with it.
    """

    def __init__(self) -> None:
        self._channel, other = socket.socketpair()
        with other:
            try:
                self._process = _spawn(other)
            except BaseException:
                self._channel.close()
                raise
        self._stream = self._channel.makefile("rwb")
        self._is_new = True
        self._left = False

    def ask(self, request: Request) -> Answer | None:
        """The answer, or None if the process ends meanwhile."""
        try:
            if self._is_new:
                self._is_new = False
                pickle.dump(this_program(), self._stream)
            pickle.dump(request, self._stream)
            self._stream.flush()
            return pickle.load(self._stream)
        except (OSError, EOFError, pickle.UnpicklingError):
            return None

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it at once, with all that it has started; who asks it has no answer."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let it end when it has nothing to run."""
        with suppress(OSError):
            self._stream.close()
        self._channel.close()

    def end(self, limit: float) -> None:
        """Close it, and see to it that it ends: it is killed after so many seconds."""
        self.close()
        try:
            self._process.wait(limit)
        except subprocess.TimeoutExpired:
            self._left = True
            self.kill()
            self._process.wait()

    def how_it_ended(self) -> str:
        """Its end, in words."""
        if self._left:
            return "has closed its connection to the worker, and was killed"
        code = self._process.returncode
        if code >= 0:
            return f"ended by itself, with exit code {code}"
        reason = "; perhaps there was no memory left" if code == -signal.SIGKILL else ""
        return f"was ended by signal {signal_name(-code)}{reason}"


def _spawn(channel: socket.socket) -> subprocess.Popen[bytes]:
    flags: Any = vars(subprocess)["_args_from_interpreter_flags"]()  # as `multiprocessing` does
    command = [sys.executable, *flags, "-c", _START, str(channel.fileno()), *sys.path]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # it inherits that
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=[channel.fileno()],
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_all(processes: list[_Process]) -> None:
    for process in processes:
        process.close()
    latest = time.monotonic() + END_LIMIT
    for process in processes:
        process.end(max(0.0, latest - time.monotonic()))


def _ask(
    process: _Process,
    function: TaskFunction[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[Any, Outcome | None] | None:
    called = function.function
    try:
        request = called.__module__, called.__qualname__, dumps((args, kwargs))
    except BaseException as error:
        return None, untransferable(f"the arguments of {function.name}", error)
    answer = process.ask(request)
    if answer is None:
        return None
    value, outcome = answer
    try:
        return None if outcome else loads(value), outcome
    except BaseException as error:
        return None, untransferable(f"the result of {function.name}", error)

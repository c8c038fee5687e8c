"""A process that has imported everything and opened nothing: a fork of it is a new program at once.

To start Python and import sitq takes longer than most processes of these tests live. The zygote
does it once, has a single thread, and forks children that play a role. It speaks in lines of JSON:
orders come in on its standard input, events of its children go out on its standard output.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

ROOT = Path(__file__).parents[3]
LIFE = 900
"""Seconds after which a child is killed whatever happens."""
PATIENCE = 120.0
"""Seconds for which an event is waited for that has to come."""
PR_SET_PDEATHSIG = 1

PROGRAM = """
import sys
sys.path.append(sys.argv[1])
from tests.faults.crash.roles import ROLES
from tests.faults.crash.zygote import serve
serve(ROLES)
"""


class Event(NamedTuple):
    """What became of a child."""

    kind: str
    """``born``, ``dead``, ``stopped`` or ``said``."""
    pid: int
    detail: Any
    """The exit code as `os.waitstatus_to_exitcode` has it, or what the child said."""


class Zygote:
    """The zygote as the process sees it that gives the orders.

    Args:
        errors: where it and its children write their standard error.
    """

    def __init__(self, errors: Path) -> None:
        self._errors = errors
        self._file: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._events: deque[Event] = deque()
        self._living: set[int] = set()

    def __enter__(self) -> Zygote:
        self._file = self._errors.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, str(ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._file,
        )
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the zygote, and with it every child that still lives."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._file is not None
        try:
            self._process.stdin.close()
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._file.close()

    def errors(self) -> str:
        """What was written to standard error so far."""
        return self._errors.read_text(encoding="utf-8", errors="replace")

    def spawn(self, role: str, **options: Any) -> int:
        """Start a child. Returns its process id."""
        self._order(["spawn", role, options])
        pid = self.wait("born").pid
        self._living.add(pid)
        return pid

    def clear(self) -> None:
        """Kill every child that still lives, and forget what they did."""
        for pid in tuple(self._living):
            self.signal(pid, signal.SIGKILL)
            self.wait("dead", pid)
        self._events.clear()

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a child. Nothing happens if the child has ended."""
        self._order(["signal", pid, number])

    def wait(
        self, kind: str, pid: int | None = None, detail: Any = None, timeout: float = PATIENCE
    ) -> Event:
        """The next such event; the others are kept for later. None fits any.

        Raises:
            TimeoutError: it did not come.
        """
        until = time.monotonic() + timeout
        passed: list[Event] = []
        try:
            while True:
                event = self.next(until - time.monotonic())
                if event is None:
                    raise TimeoutError(f"no event {kind} {pid} {detail}: {self.errors()}")
                if event.kind == kind and pid in (None, event.pid) and detail in (None, event[2]):
                    return event
                passed.append(event)
        finally:
            self._events.extendleft(reversed(passed))

    def next(self, timeout: float) -> Event | None:
        """The next event of any kind; None if there is none in time."""
        until = time.monotonic() + timeout
        while not self._events:
            assert self._process is not None
            assert self._process.stdout is not None
            left = max(0.0, until - time.monotonic())
            ready, _, _ = select.select([self._process.stdout], [], [], left)
            if not ready:
                return None
            self._read(self._process.stdout.fileno())
        event = self._events.popleft()
        if event.kind == "dead":
            self._living.discard(event.pid)
        return event

    def _read(self, descriptor: int) -> None:
        data = os.read(descriptor, 65_536)
        if not data:
            raise RuntimeError(f"the zygote ended: {self.errors()}")
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._events.extend(Event(*json.loads(line)) for line in lines)

    def _order(self, order: list[Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()


def say(what: Any) -> None:
    """Tell something to who gives the orders. For children."""
    _report("said", os.getpid(), what)


def wait_at(barrier: str) -> None:
    """Block this thread until who gives the orders lets it pass a `Barrier`. For children."""
    with open(barrier, "rb", buffering=0) as gate:
        say("waits")  # not before: what is in a pipe that nobody has open is lost
        gate.read(1)


class Barrier:
    """A pipe at which children wait, each for one byte.

    Args:
        path: of the pipe, which is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)
        self._gate = os.open(path, os.O_RDWR)  # nobody is to find a pipe without a writer

    def __enter__(self) -> Barrier:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._gate)

    def open(self, number: int) -> None:
        """Let so many pass."""
        os.write(self._gate, b"." * number)


def _report(kind: str, pid: int, detail: Any) -> None:
    # One write of less than PIPE_BUF: lines of several processes do not mix.
    os.write(1, json.dumps([kind, pid, detail]).encode() + b"\n")


class _Server:
    """The zygote in its own process."""

    def __init__(self, roles: Mapping[str, Callable[..., None]]) -> None:
        self._roles = roles
        self._children: set[int] = set()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)

    def serve(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        gc.collect()
        gc.freeze()
        rest = b""
        while True:
            ready, _, _ = select.select([0, self._woken], [], [])
            if self._woken in ready:
                os.read(self._woken, 4096)
                self._reap()
            if 0 in ready:
                data = os.read(0, 65_536)
                if not data:
                    return self._end()
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._obey(*json.loads(line))

    def _obey(self, order: str, *details: Any) -> None:
        if order == "spawn":
            self._spawn(*details)
        elif details[0] in self._children:  # not reaped: the number names nobody else
            os.kill(*details)

    def _spawn(self, role: str, options: dict[str, Any]) -> None:
        pid = os.fork()
        if pid == 0:
            self._play(role, options)
        self._children.add(pid)
        _report("born", pid, None)

    def _play(self, role: str, options: dict[str, Any]) -> None:
        code = 1
        try:
            faulthandler.enable()  # who hangs is asked where, by an abort
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.alarm(LIFE)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            self._roles[role](**options)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                _report("stopped", pid, None)
            else:
                self._children.discard(pid)
                _report("dead", pid, os.waitstatus_to_exitcode(status))

    def _end(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)


def serve(roles: Mapping[str, Callable[..., None]]) -> None:
    """Be the zygote, until the orders end.

    Args:
        roles: what its children can play, by name.
    """
    _Server(roles).serve()

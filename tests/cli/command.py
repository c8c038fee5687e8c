"""The command line in a process of its own, as a test holds it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import anyio

from sitq import SQLiteBackend, TaskQueue

T = TypeVar("T")

LIMIT = 60.0
"""Seconds after which a command is killed that has not ended by itself."""
STARTED = re.compile(r"process started pid=(\d+)")
ENDED = re.compile(r"process ended pid=(\d+)")


class Command:
    """``sitq`` with these arguments, run in a folder; its errors are read with its output.

    Args:
        folder: where it runs.
        arguments: what stands behind ``sitq``.
        setup: Python code that runs before.
        stdin: where it reads from, if anywhere.
        session: whether it is alone in a session.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        setup: str = "",
        stdin: int = subprocess.DEVNULL,
        session: bool = False,
    ) -> None:
        code = f"{setup}\nfrom sitq.__main__ import main\nmain()"
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONWARNINGS": "error", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=session,
        )
        self._took_too_long = False
        self._limit = threading.Timer(LIMIT, self._give_up)

    def __enter__(self) -> Command:
        self._limit.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            print(*self.lines, sep="\n")
        self._kill_all()
        self._process.communicate()
        self._limit.cancel()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def line(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "it has ended, or was killed because it took too long"
        self.lines.append(line.rstrip("\n"))
        return self.lines[-1]

    def wait_for(self, *texts: str) -> str:
        """Wait until it has printed a line with each of these, in any order; the last such line."""
        missing, line = list(texts), ""
        while missing:
            line = self.line()
            found = next((text for text in missing if text in line), None)
            if found is not None:
                missing.remove(found)
        return line

    def end(self) -> int:
        """Wait until it, and whatever prints where it does, has ended. Returns its exit code."""
        assert self._process.stdout is not None
        self.lines += self._process.stdout.read().splitlines()
        code = self._process.wait()
        assert not self._took_too_long, "it was killed because it took too long"
        return code

    def children(self) -> set[int]:
        """The processes that it keeps, as far as its lines were read."""
        text = "\n".join(self.lines)
        return {*map(int, STARTED.findall(text))} - {*map(int, ENDED.findall(text))}

    def _give_up(self) -> None:
        self._took_too_long = True
        self._kill_all()

    def _kill_all(self) -> None:
        self._process.kill()
        for pid in self.children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def on_store(path: Path, work: Callable[[TaskQueue], Awaitable[T]]) -> T:
    """Do this with the store of a test."""

    async def opened() -> Any:
        async with TaskQueue(SQLiteBackend(path, synchronous="NORMAL")) as queue:
            return await work(queue)

    return anyio.run(opened)

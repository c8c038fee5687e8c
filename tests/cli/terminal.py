"""A command in a terminal, of which a test is the other side."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Terminal"]

LIMIT = 60.0
"""Seconds after which a test fails that waits for something."""


class Terminal:
    """``sitq`` with these arguments, in a terminal of its own.

    Args:
        folder: where it runs.
        arguments: what stands behind ``sitq``.
        lines: of the terminal.
        columns: of the terminal.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        lines: int = 24,
        columns: int = 100,
        term: str = "xterm",
    ) -> None:
        self.text = ""
        """All that was printed."""
        self._master, self._slave = pty.openpty()
        self.resize(lines, columns)
        self._before = termios.tcgetattr(self._slave)
        environment = os.environ | {"TERM": term, "PYTHONDONTWRITEBYTECODE": "1"}
        for name in ("COLUMNS", "LINES"):  # of another terminal
            environment.pop(name, None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sitq", *arguments],
            cwd=folder,
            env=environment,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            print(self.text)
        self._process.kill()
        self._process.wait()
        os.close(self._master)
        os.close(self._slave)

    def resize(self, lines: int, columns: int) -> None:
        """Give it another size. The command gets a SIGWINCH."""
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def press(self, keys: str) -> None:
        """Type something."""
        os.write(self._master, keys.encode())

    def signal(self, number: signal.Signals) -> None:
        """Send the command a signal."""
        self._process.send_signal(number)

    def wait_for(self, text: str, after: int = 0) -> int:
        """Wait until it has printed this, behind a place. Returns the place behind it."""
        end = time.monotonic() + LIMIT
        while (place := self.text.find(text, after)) < 0:
            assert time.monotonic() < end, f"it did not print {text!r}"
            assert self._read() or self._process.poll() is None, f"it ended without {text!r}"
        return place + len(text)

    def end(self) -> int:
        """Wait until it has ended. Returns its exit code."""
        code = None
        while code is None:
            self._read()
            code = self._process.poll()
        while self._read():
            pass
        return code

    def is_restored(self) -> bool:
        """Whether the terminal is as it was before: its settings, and its cursor."""
        after: list[Any] = termios.tcgetattr(self._slave)
        return after == self._before and self.text.rfind("\x1b[?25h") >= self.text.rfind(
            "\x1b[?25l"
        )

    def _read(self) -> bool:
        """Read what has come, or wait for a moment."""
        if not select.select([self._master], [], [], 0.05)[0]:
            return False
        self.text += os.read(self._master, 65_536).decode()
        return True

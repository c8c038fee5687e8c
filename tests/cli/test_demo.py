"""``sitq demo``: it does what it says, and leaves no process and no file, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .command import Command


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one in which the tour makes its own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_the_tour(folder: Path) -> None:
    with Command(folder, "demo") as command:
        assert command.end() == 0
    text = "\n".join(command.lines)
    assert text.isascii()
    assert "\x1b" not in text
    for line in (
        "add(2, 3)  pending",
        "add(2, 3)  5",
        "call_friend()  'hello, at attempt 3'",
        "divide(1, 0)  failed: ZeroDivisionError: division by zero",
        "1 + 4 + 9 + ... + 100  385",
        "succeeded  16",
        "lost  0",
        "ended twice  0",
        "4 of 4  page 4 is printed",
        "wait()  cancelled",
    ):
        assert re.search(re.escape(line).replace(r"\ \ ", " +") + "$", text, re.MULTILINE), line
    assert int(re.findall(r"runs +(\d+): ", text)[0]) > 16
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "at"),
    [
        (signal.SIGINT, "call_friend()  "),
        (signal.SIGTERM, "gets a SIGKILL"),
        (signal.SIGINT, "wait() would run"),
    ],
)
def test_a_signal_ends_it(number: signal.Signals, at: str, folder: Path) -> None:
    with Command(folder, "demo") as command:
        command.wait_for(at)
        command.signal(number)
        assert command.end() == 128 + number  # so its workers have ended too
    assert "Traceback" not in "\n".join(command.lines)
    assert list(folder.iterdir()) == []


def test_its_workers_do_not_outlive_it(folder: Path) -> None:
    with Command(folder, "demo") as command:
        command.wait_for("call_friend()  ")
        command.signal(signal.SIGKILL)
        assert command.end() == -signal.SIGKILL


def test_a_worker_that_does_not_start_is_told_in_a_line(folder: Path) -> None:
    setup = "import sitq.cli.demo.scenes as scenes; scenes.LEASE = 0"
    with Command(folder, "demo", setup=setup) as command:
        assert command.end() == 1
    assert command.lines[-1] == "sitq: a worker of the tour has ended by itself, with 2"
    assert list(folder.iterdir()) == []


def test_at_a_terminal_it_is_styled_and_ctrl_c_ends_it(folder: Path) -> None:
    code = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    code += "import sitq.cli.demo.voice as voice; voice.PAUSE = 0\n"
    code += "from sitq.__main__ import main; main()"
    ours, theirs = os.openpty()
    with os.fdopen(ours, "r+b", buffering=0) as person, os.fdopen(theirs) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, "demo"],
            env=os.environ | {"TERM": "xterm"},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        seen = b""
        while b"5. " not in seen:
            seen += person.read(1000)
        person.write(b"\x03")
        assert process.wait() == 128 + signal.SIGINT
    assert b"\x1b[1m1. Store calls" in seen
    assert list(folder.iterdir()) == []

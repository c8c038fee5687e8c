"""Starts measurements, each in a fresh process, and sees to it that none outlives its time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.setting import Figures, Setting

__all__ = ["Companion", "MeasurementFailed", "companion", "measured"]

PATIENCE = 900.0
"""Seconds after which a measurement is given up."""


class MeasurementFailed(Exception):
    """The process of a measurement broke; the message is the end of what it said."""


def _command(measure: str, setting: Setting, parameters: dict[str, Any]) -> list[str]:
    order = {"measure": measure, "setting": asdict(setting), "parameters": parameters}
    return [sys.executable, "-P", str(Path(__file__).with_name("child.py")), json.dumps(order)]


def measured(measure: str, setting: Setting, parameters: dict[str, Any]) -> Figures:
    """Run a measurement and return its figures.

    Raises:
        MeasurementFailed: it broke, or took too long.
    """
    process = subprocess.Popen(
        _command(measure, setting, parameters),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise MeasurementFailed(f"no answer after {PATIENCE:.0f} s") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its companions are of its group
        process.communicate()
    if process.returncode != 0:
        raise MeasurementFailed(errors.strip()[-2_000:])
    return json.loads(output.splitlines()[-1])


class Companion:
    """A second process of a measurement."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def hear(self) -> str:
        """Wait for its next line. Empty when it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def is_ready(self) -> None:
        """Wait until it is.

        Raises:
            MeasurementFailed: it ended instead.
        """
        if self.hear() != "ready":
            raise MeasurementFailed("a companion was never ready")

    def tell(self, word: str) -> None:
        """Say a word to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()


@contextmanager
def companion(measure: str, setting: Setting, **parameters: Any) -> Generator[Companion]:
    """A second process beside this one; at the end of the block it is killed if it still runs."""
    process = subprocess.Popen(
        _command(measure, setting, parameters),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Companion(process)
        finally:
            process.kill()

"""One measurement, in a process of its own: it prints its figures as JSON, on the last line.

A measurement is a function ``measure(setting, **parameters)``. Some are companions of another one,
which lives in another process: they say that they are ready, wait for a word, and go on.
"""

from __future__ import annotations

import gc
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a program: the tests are not on the path
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.setting import Figures, Setting

__all__ = ["say", "take", "wait_for_word"]


def say(line: str) -> None:
    """Tell the process that started this one."""
    print(line, flush=True)


def wait_for_word() -> str:
    """Wait until the process that started this one says something. Empty when it never will."""
    return sys.stdin.readline().strip()


def take(measure: str, setting: Setting, parameters: dict[str, Any]) -> Figures:
    """Take a measurement in this process."""
    module, name = measure.split(":")
    function = getattr(import_module(f"tests.benchmarks.{module}"), name)
    gc.collect()
    return function(setting, **parameters)


def main() -> None:
    """Do what the first argument orders."""
    order = json.loads(sys.argv[1])
    say(json.dumps(take(order["measure"], Setting(**order["setting"]), order["parameters"])))


if __name__ == "__main__":
    main()

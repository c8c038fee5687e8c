"""What `sitq.testing` shows, and what it costs to import."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import sitq.testing

from .absent import without

PUBLIC = ["Clock", "Enqueued", "Queue", "QueueMachine", "run_pending"]


def test_the_public_names_are_these() -> None:
    assert sitq.testing.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(sitq.testing, name))


def test_there_are_no_others() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cluck'"):
        sitq.testing.Cluck  # noqa: B018  # pyright: ignore


def run(code: str) -> str:
    """What a Python prints that has no Hypothesis."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", without("hypothesis") + code],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_it_needs_no_hypothesis_and_no_pytest() -> None:
    code = (
        "from sitq.testing import Clock, Queue, run_pending\n"
        "print(sorted({'pytest', '_pytest', 'trio', 'aiosqlite'} & {*sys.modules}))"
    )
    assert run(code) == "[]"


def test_the_machine_says_that_it_needs_hypothesis() -> None:
    code = (
        "try:\n"
        "    from sitq.testing import QueueMachine\n"
        "except ImportError as error:\n"
        "    print(error.name, error)"
    )
    expected = "hypothesis sitq.testing.QueueMachine needs Hypothesis: pip install hypothesis"
    assert run(code) == expected

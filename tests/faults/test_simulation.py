"""The short form of the simulation, and that a seed decides everything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .simulation import play

PROGRAM = Path(__file__).with_name("simulation.py")


@pytest.mark.parametrize("first", range(1_000, 1_060, 10))
def test_lives_of_a_queue(first: int) -> None:
    for seed in range(first, first + 10):
        life = play(seed)
        assert life.broken == [], "\n".join(life.trace)


def _played_elsewhere(seed: int, hash_seed: str) -> str:
    """The digest of a life, from a process in which sets have another order."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--only", str(seed)],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split()[-1]


def test_the_same_seed_is_the_same_life() -> None:
    digest = play(7).digest()
    assert digest == play(7).digest()
    assert digest == _played_elsewhere(7, "1") == _played_elsewhere(7, "2")
    assert digest != play(8).digest()


def test_a_broken_promise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.simulated.verdict.ATTEMPTS", 0)
    broken = [life.broken for life in map(play, range(1_000, 1_005))]
    assert any("too many attempts" in line for lines in broken for line in lines)

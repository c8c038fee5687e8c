"""The short form of the simulation, and that a seed decides everything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .simulation import digest, play

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("first", range(1_000, 1_050, 10))
def test_lives_of_a_queue(first: int) -> None:
    for seed in range(first, first + 10):
        play(seed)


@pytest.mark.parametrize("seed", [5_011, 9_053, 9_252, 20_147])
def test_no_stall_makes_anybody_look_dead(seed: int) -> None:
    play(seed, actions=15)


def test_the_same_seed_is_the_same_life() -> None:
    traces = {digest(play(7)), digest(play(7))}
    for hashes in ("1", "2"):
        command = [sys.executable, "-m", "tests.faults.simulation", "--only", "7"]
        environment = os.environ | {"PYTHONHASHSEED": hashes}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        traces.add(done.stdout.split()[-1])
    assert len(traces) == 1
    assert traces != {digest(play(8))}

"""A task that takes its worker down fails in the end, and nobody else with it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from sitq import State
from sitq.failure import unpack_error

from .crash import functions as f
from .crash.roles import CRASH_LIMIT
from .crash.stage import Stage
from .crash.zygote import Zygote

INNOCENT = 1_000


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_poison_task_fails_and_no_innocent_one(loop: str, zygote: Zygote, tmp_path: Path) -> None:
    stage = Stage(zygote, tmp_path)
    calls = [f.plain.call(f"<{number}>") for number in range(INNOCENT)]
    *innocent, guilty = stage.enqueue([*calls, f.poison.call("<poison>")])
    for _ in range(CRASH_LIMIT):
        pid = stage.spawn("drainer", loop, slots=10, lease=0.3)
        assert zygote.wait("dead", pid).detail == -signal.SIGABRT
    pid = stage.spawn("drainer", loop, slots=10, lease=0.3)
    assert zygote.wait("dead", pid).detail == 0, zygote.errors()

    task = stage.task(guilty)
    assert task.error is not None
    assert unpack_error(task.error).type == "sitq.errors.WorkerLost"
    assert (task.state, task.attempts, task.crashes) == (State.FAILED, 0, CRASH_LIMIT)
    histories = stage.histories()
    assert histories.violations == []
    crashes = [left.entry.seq for left in histories.left.values() if left.move == "crashed"]
    beside = [seq for seq in crashes if seq != task.seq]
    assert len(beside) >= 9, "the poison task took nobody with it; so this shows nothing"
    assert len(beside) == len(set(beside)), "beside the poison task again, after a crash"
    assert histories.moves["succeeded"] == len(innocent)

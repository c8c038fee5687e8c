"""A worker is killed: what it held is pending again in time, and nobody has to ask for it."""

from __future__ import annotations

import signal
import time
from contextlib import closing
from pathlib import Path

import pytest

from .crash import functions as f
from .crash.journal import connect, services
from .crash.roles import POLL
from .crash.stage import Stage
from .crash.zygote import Zygote

LEASE = 0.6
SLACK = 5.0
"""Seconds beyond the promised ones, for a machine that has other things to do."""
TASKS = 5


@pytest.mark.parametrize(("loop", "other"), [("asyncio", "trio"), ("trio", "asyncio")])
@pytest.mark.parametrize("later", [False, True], ids=["beside", "later"])
def test_its_tasks_are_pending_again_in_time(
    later: bool, loop: str, other: str, zygote: Zygote, tmp_path: Path
) -> None:
    stage = Stage(zygote, tmp_path)
    ids = stage.enqueue([f.stays.call(f"<{number}>") for number in range(TASKS)])
    dead = stage.spawn("worker", loop, slots=TASKS, lease=LEASE)
    for _ in ids:
        zygote.wait("said", dead, "stays 1")
    if not later:
        heir = stage.spawn("worker", other, slots=TASKS, lease=LEASE)
        zygote.wait("said", heir, "working")
    since = time.time()
    zygote.signal(dead, signal.SIGKILL)
    zygote.wait("dead", dead)
    if later:
        since = time.time()
        heir = stage.spawn("worker", other, slots=TASKS, lease=LEASE)
    for _ in ids:
        zygote.wait("said", heir, "stays 2")

    histories = stage.histories()
    assert histories.violations == []
    back = [left.entry for left in histories.left.values() if left.move == "crashed"]
    assert [(entry.state, entry.attempts, entry.crashes) for entry in back] == [(0, 0, 1)] * TASKS
    assert max(entry.at for entry in back) - since <= LEASE * 4 / 3 + POLL + SLACK
    _was_silent_before_it_was_suspected(stage.path, dead)


def _was_silent_before_it_was_suspected(path: Path, pid: int) -> None:
    with closing(connect(path)) as connection:
        [gone] = [one for one in services(connection) if (one.event, one.pid) == ("gone", pid)]
    assert gone.suspect is not None
    assert gone.suspect - gone.beat >= LEASE * 2 / 3

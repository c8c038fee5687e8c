"""Many processes that reserve the same tasks at the same moment: each task has one winner."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from .crash import functions as f
from .crash.journal import records
from .crash.stage import Stage
from .crash.zygote import Barrier, Zygote

PROCESSES = 16
TASKS = 400


def test_each_task_has_one_winner(zygote: Zygote, tmp_path: Path) -> None:
    stage = Stage(zygote, tmp_path)
    stage.enqueue([f.plain.call(f"<{number}>") for number in range(TASKS)])
    with Barrier(tmp_path / "barrier") as barrier:
        loops = ("asyncio", "trio") * (PROCESSES // 2)
        racers = [stage.spawn("reserver", loop, barrier=barrier.path) for loop in loops]
        for pid in racers:
            zygote.wait("said", pid, "waits")
        barrier.open(PROCESSES)
        ends = [zygote.wait("dead", pid).detail for pid in racers]
    assert ends == [0] * PROCESSES, zygote.errors()

    won = Counter(
        (record["seq"], record["fence"])
        for path in tmp_path.glob("*.taken.jsonl")
        for record in records(path)
    )
    assert won == {(seq, 1): 1 for seq in range(1, TASKS + 1)}
    histories = stage.histories()
    assert histories.violations == []
    assert histories.moves == {"reserved": TASKS}

"""A worker that stood still for longer than its lease, and goes on as if nothing had happened."""

from __future__ import annotations

import signal
from contextlib import closing
from pathlib import Path

import pytest

from sitq import State

from .crash import functions as f
from .crash.journal import connect, records, services
from .crash.stage import Stage
from .crash.zygote import Barrier, Zygote

SLOTS = 3


@pytest.mark.parametrize(("loop", "other"), [("asyncio", "trio"), ("trio", "asyncio")])
@pytest.mark.parametrize("where", ["running", "reserved"])
def test_a_stopped_worker_settles_nothing_and_begins_anew(
    where: str, loop: str, other: str, zygote: Zygote, tmp_path: Path
) -> None:
    stage = Stage(zygote, tmp_path)
    with Barrier(tmp_path / "barrier") as barrier:
        if where == "running":
            failpoint, call = {}, f.blocks.call("<second>", barrier.path)
        else:
            failpoint = {"point": "reserved", "barrier": barrier.path}
            call = f.stays.call("<second>")
        ids = stage.enqueue([f.stays.call("<first>"), call])
        old = stage.spawn("drainer", loop, failpoint, slots=SLOTS, lease=0.4)
        zygote.wait("said", old, "waits")
        stage.stop(old)
        barrier.open(1)
    new = stage.spawn("drainer", other, slots=SLOTS, lease=0.4)
    assert zygote.wait("dead", new).detail == 0, zygote.errors()
    settled = [stage.task(id) for id in ids]
    assert [(task.state, task.crashes) for task in settled] == [(State.SUCCEEDED, 0)] * 2

    # Now one of its runs returns and one is still under way, or both are yet to begin.
    stage.enqueue([f.meets.call(f"<meets{n}>", SLOTS) for n in range(2 * SLOTS)])
    zygote.signal(old, signal.SIGCONT)
    assert zygote.wait("dead", old).detail == 0, zygote.errors()
    assert [stage.task(id) for id in ids] == settled
    histories = stage.histories()
    assert histories.violations == []
    assert histories.moves == {
        "reserved": 4 + 2 * SLOTS,
        "crashed": 2,
        "succeeded": 2 + 2 * SLOTS,
    }
    _logged_once(tmp_path / "drainer0.log", settled[0].id, settled[1].id)
    _took_a_new_id(stage.path, old)
    _had_all_its_slots(tmp_path / "drainer0.runs.jsonl")


def _logged_once(log: Path, *ids: bytes) -> None:
    text = log.read_text(encoding="utf-8")
    assert text.count("lease lost: its tasks were given back") == 1, text
    for id in ids:
        assert text.count(f"lease lost: outcome dropped worker=1 task={id.hex()}") == 1, text
    lines = [line for line in text.splitlines() if line.startswith("lease lost")]
    assert len(lines) == 1 + len(ids), text


def _took_a_new_id(path: Path, pid: int) -> None:
    with closing(connect(path)) as connection:
        hired = [one.id for one in services(connection) if (one.event, one.pid) == ("hired", pid)]
    assert len(hired) == 2


def _had_all_its_slots(path: Path) -> None:
    """As many met as there are slots, and never more: each slot was given back once."""
    beside, most = 0, 0
    for record in records(path):
        if record["token"].startswith("<meets"):
            beside += 1 if record["op"] == "start" else -1
            most = max(most, beside)
    assert (beside, most) == (0, SLOTS)

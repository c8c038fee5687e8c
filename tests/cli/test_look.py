"""``sitq ls``, ``stats`` and ``workers``."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import sitq as package
from sitq import State
from sitq.backends.base import Backend
from sitq.cli.output import columns_for
from sitq.model import WorkerRecord

from .conftest import Sitq
from .stored import Stored, on_backend

ROOT = Path(package.__file__).parent
STATES = ["succeeded", "failed", "running", "cancelled", "pending", "pending"]


def test_it_lists_tasks_in_the_order_of_enqueueing(sitq: Sitq, everywhere: Stored) -> None:
    done = sitq("ls")
    assert (done.code, done.err) == (0, "")
    assert [row[4] for row in done.rows] == STATES
    assert [row[1] for row in done.rows] == [
        *(str(everywhere.succeeded), str(everywhere.failed), str(everywhere.running)),
        *(str(everywhere.cancelled), str(everywhere.pending), str(everywhere.later)),
    ]


def test_it_says_when(sitq: Sitq, stored: Stored) -> None:
    lines = sitq("ls").out.splitlines()[1:]
    assert all(" ago " in line for line in (*lines[:2], lines[3]))
    assert " for " in lines[2]
    assert lines[2].endswith(" 75 % [#######---] nearly")
    assert " due for " in lines[4]
    assert " due in 5 min " in lines[5]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--state", "failed"], ["failed"]),
        (["--state", "pending", "--queue", "later"], ["later"]),
        (["--queue", "io"], ["running"]),
        (["--name", "shop.fetch"], ["running"]),
        (["--key", "the key"], ["cancelled", "pending"]),
        (["--limit", "2"], ["succeeded", "failed"]),
        (["--limit", "1", "--after", "1"], ["failed"]),
        (["--queue", "nobody"], []),
    ],
)
def test_some_of_them(sitq: Sitq, stored: Stored, options: list[str], expected: list[str]) -> None:
    found = sitq("ls", "--json", *options).json
    assert [task["id"] for task in found] == [str(getattr(stored, name)) for name in expected]


def test_a_task_as_json(sitq: Sitq, stored: Stored) -> None:
    [task] = sitq("ls", "--json", "--state", "failed").json
    assert task["seq"] == 2
    assert (task["name"], task["queue"], task["state"]) == ("shop.sell", "default", "failed")
    assert (task["attempts"], task["key"], task["progress"]) == (1, None, None)
    assert task["error"]["type"] == "builtins.ExceptionGroup"
    moments = [datetime.fromisoformat(task[f"{name}_at"]) for name in ("started", "ended")]
    assert moments == sorted(moments)
    assert moments[0].utcoffset() == timedelta()


def test_nothing_is_stored(sitq: Sitq, path: Path) -> None:
    sitq("migrate")
    assert sitq("ls").rows == []
    assert sitq("ls", "--json").out == ""
    assert sitq("workers").rows == []


def test_it_counts_by_queue_and_in_all(sitq: Sitq, everywhere: Stored) -> None:
    found = {one["queue"]: one for one in sitq("stats", "--json").json}
    assert list(found) == ["default", "io", "later", None]
    live = {
        queue: one["counts"]["pending"] + one["counts"]["running"] for queue, one in found.items()
    }
    assert live == {"default": 1, "io": 1, "later": 1, None: 3}
    assert found[None]["counts"] == {state: STATES.count(state) for state in State}
    assert found["default"]["due"] > 0
    assert found[None]["due"] >= found["default"]["due"]
    assert found["io"]["due"] is found["later"]["due"] is None


def test_one_queue_and_the_table(sitq: Sitq, stored: Stored) -> None:
    [row] = sitq("stats", "--queue", "later").rows
    assert row == ["later", "1", "0", "0", "0", "0"]
    assert [row[:2] for row in sitq("stats").rows][-1] == ["(all)", "2"]


def test_workers(sitq: Sitq, everywhere: Stored) -> None:
    [worker] = sitq("workers", "--json").json
    assert (worker["host"], worker["pid"], worker["queues"]) == ("here", 7, None)
    assert (worker["held"], worker["concurrency"], worker["stuck"]) == (1, 10, 0)
    [row] = sitq("workers").rows
    assert row[1:4] == ["here:7", "(all)", "1/10"]
    assert "lapsed" not in row


def test_a_lapsed_worker_is_marked(sitq: Sitq, stored: Stored) -> None:
    on_backend(stored.place, _hire_for_a_moment)
    assert ["lapsed" in line for line in sitq("workers").out.splitlines()] == [False, False, True]


async def _hire_for_a_moment(backend: Backend) -> None:
    await backend.hire(WorkerRecord("gone", 8, ("a", "b"), 1, 1e-9))


NAMES = ("seq", "id", "name", "queue")
ROWS = [(1, "i" * 36, "a" * 30, "default"), (22, "j" * 36, "b", "q")]


@pytest.mark.parametrize(
    ("room", "expected"),
    [(1_000, [0, 1, 2, 3]), (64, [0, 1, 2, 3]), (63, [1, 2, 3]), (58, [1, 2]), (1, [1, 2])],
)
def test_a_narrow_terminal_has_fewer_columns(room: int, expected: list[int]) -> None:
    assert columns_for(room, NAMES, ROWS, ["seq", "queue"]) == expected


def test_without_the_extra() -> None:
    """Nothing else imports what only the command line needs."""
    files = [path for path in ROOT.rglob("*.py") if ROOT / "cli" not in path.parents]
    assert files
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(?:from|import) (?:typer|rich)\b", text, re.MULTILINE), file

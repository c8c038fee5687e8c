"""``sitq show``."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from sitq import TaskQueue
from sitq.backends.base import Backend
from sitq.cli.show import Below, Details, Value, lines
from sitq.model import NewChild, NewGroup, NewTask, Progress, State, Task

from .conftest import Sitq
from .stored import Stored, on_backend

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
PLAIN = Task(
    id=UUID(int=7),
    seq=3,
    name="shop.fetch",
    queue="io",
    state=State.RUNNING,
    priority=0,
    key=None,
    attempts=0,
    crashes=0,
    cancel_requested=False,
    enqueued_at=NOW - timedelta(minutes=2),
    run_at=NOW - timedelta(minutes=2),
    deadline=None,
    started_at=NOW - timedelta(minutes=1),
    ended_at=None,
    error=None,
    progress=None,
)


def printed(task: Task) -> dict[str, str]:
    """What is said of it, by name."""
    found = lines(Details(task, None, None, None), NOW)
    return {name: rest for name, _, rest in (line.partition("  ") for line in found) if name}


def test_what_succeeded(sitq: Sitq, everywhere: Stored) -> None:
    done = sitq("show", everywhere.succeeded)
    assert (done.code, done.err) == (0, "")
    assert f"id        {everywhere.succeeded}\n" in done.out
    assert "state     succeeded\n" in done.out
    assert "result    {'sold': ['a', ('b', 1)]}\n" in done.out
    assert "arguments" not in done.out


def test_what_failed_is_told_with_all_that_made_it_fail(sitq: Sitq, everywhere: Stored) -> None:
    told = [line.strip() for line in sitq("show", everywhere.failed).out.splitlines()]
    expected = [
        "error: ExceptionGroup: two of them (2 sub-exceptions)",
        "Traceback (most recent call last):",
        "raise group from cause",
        "note: a note of it",
        "caused by: KeyError: 'the cause'",
        "1 of 2: ValueError: the first",
        "member",
        "2 of 2: OSError: the second member",
    ]
    places = [told.index(line) for line in expected]
    assert places == sorted(places)


def test_arguments_on_request_alone(sitq: Sitq, everywhere: Stored) -> None:
    assert "example.org" not in sitq("show", everywhere.running).out
    told = sitq("show", everywhere.running, "--arguments").out
    assert "('https://example.org', times=2)" in told
    [found] = sitq("show", "--json", everywhere.running, "--arguments").json
    value = {"args": ["https://example.org"], "kwargs": {"times": 2}}
    assert found["arguments"] == {"value": value, "unreadable": None}
    assert found["result"] is found["tree"] is None
    assert found["task"]["state"] == "running"


def test_no_such_task(sitq: Sitq, stored: Stored) -> None:
    id = uuid4()
    done = sitq("show", id)
    assert done.code == 1
    assert done.err == f"sitq: there is no task {id}, or it ended and was purged\n"


@pytest.mark.parametrize("id", ["7", "x" * 36, ""])
def test_what_is_no_id(sitq: Sitq, stored: Stored, id: str) -> None:
    done = sitq("show", id)
    assert done.code == 2
    assert done.err.count("\n") == 1


def test_what_cannot_be_read_says_so(sitq: Sitq, stored: Stored) -> None:
    with sqlite3.connect(stored.place) as connection:
        connection.execute("UPDATE sitq_task SET value = x'c1' WHERE state = 2")
        connection.execute("UPDATE sitq_task SET arguments = x'c1' WHERE state = 2")
    connection.close()
    done = sitq("show", stored.succeeded, "--arguments")
    assert done.code == 0
    assert "result     (the result of shop.sell cannot be read: " in done.out
    assert f"arguments  (the arguments of task {stored.succeeded} cannot be read: " in done.out
    [found] = sitq("show", stored.succeeded, "--json").json
    assert found["result"]["value"] is None
    assert "cannot be read" in found["result"]["unreadable"]


def test_a_tree(sitq: Sitq, everywhere: Stored) -> None:
    child = on_backend(everywhere.place, lambda b: _enqueue_child(b, everywhere.running))
    told = sitq("show", everywhere.running, "--tree").out.splitlines()[-2:]
    assert told[0].startswith(f"{everywhere.running}  running  for ")
    assert told[1].startswith(f"  {child}  pending  due ")
    [found] = sitq("show", everywhere.running, "--tree", "--json").json
    family = [(one["depth"], one["parent"], one["task"]["id"]) for one in found["tree"]]
    assert family == [
        (0, None, str(everywhere.running)),
        (1, str(everywhere.running), str(child)),
    ]


async def _enqueue_child(backend: Backend, parent: UUID) -> UUID:
    task = await TaskQueue(backend).get(parent)
    assert task is not None
    now = await backend.now()
    group = await backend.open_group(NewGroup(task.seq, 1, 0, 0))
    new = NewTask(uuid4().bytes, "shop.sell", "io", 0, now, None, None, None, None, b"", now)
    [id] = await backend.insert_children(group, [NewChild(new, "#0", b"")])
    return UUID(bytes=id)


def test_a_deep_tree_has_an_edge_and_an_end() -> None:
    tree = [Below(depth, None, PLAIN) for depth in range(1_000)]
    told = [*lines(Details(PLAIN, None, None, tree), NOW)]
    assert max(map(len, told)) < 120
    assert told[-1] == "(there may be more: the first 1000 are shown)"


def test_what_is_said_of_a_running_task() -> None:
    task = replace(
        PLAIN,
        crashes=2,
        cancel_requested=True,
        key="k",
        deadline=NOW + timedelta(hours=1),
        progress=Progress(3.0, 4.0, "three quarters", NOW - timedelta(seconds=5)),
    )
    told = {name: rest.strip() for name, rest in printed(task).items()}
    assert told["state"] == "running, to be cancelled"
    assert told["crashes"] == "2"
    assert told["key"] == "k"
    assert told["deadline"].endswith("in 1 h")
    assert told["started"].endswith("1 min ago")
    assert told["progress"] == "75 % [###############-----] three quarters"
    assert told["as of"].endswith("5 s ago")
    assert "ended" not in told
    assert "result" not in told


def test_a_large_value_is_cut() -> None:
    assert max(map(len, lines(Details(PLAIN, Value("x" * 100_000), None, None), NOW))) < 2_100

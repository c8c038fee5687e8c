"""``sitq cancel``, ``retry`` and ``purge``."""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path
from uuid import uuid4

import pytest

from sitq import State, TaskQueue

from .conftest import Sitq
from .stored import Stored, on_backend, sell


def states(sitq: Sitq) -> dict[str, str]:
    return {task["id"]: task["state"] for task in sitq("ls", "--json").json}


def test_cancel(sitq: Sitq, everywhere: Stored) -> None:
    done = sitq("cancel", everywhere.pending, everywhere.running)
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        f"{everywhere.pending}: cancelled, or told to end\n"
        f"{everywhere.running}: cancelled, or told to end\n"
    )
    found = states(sitq)
    assert found[str(everywhere.pending)] == "cancelled"
    assert found[str(everywhere.running)] == "running"
    assert "running, to be cancelled" in sitq("show", everywhere.running).out


def test_one_that_is_refused_keeps_no_other_from_being_done(sitq: Sitq, stored: Stored) -> None:
    nobody = uuid4()
    done = sitq("cancel", stored.succeeded, nobody, stored.pending)
    assert done.code == 1
    assert done.err == (
        f"sitq: task {stored.succeeded} had ended before\n"
        f"sitq: there is no task {nobody}, or it ended and was purged\n"
    )
    assert done.out == f"{stored.pending}: cancelled, or told to end\n"


def test_what_was_done_as_json(sitq: Sitq, stored: Stored) -> None:
    done = sitq("cancel", "--json", stored.succeeded, stored.later)
    assert (done.code, done.err) == (1, "")
    assert [(one["id"], one["done"]) for one in done.json] == [
        (str(stored.succeeded), False),
        (str(stored.later), True),
    ]


def test_retry(sitq: Sitq, everywhere: Stored) -> None:
    done = sitq("retry", everywhere.failed)
    assert (done.code, done.out, done.err) == (0, f"{everywhere.failed}: pending again\n", "")
    assert states(sitq)[str(everywhere.failed)] == "pending"


def test_what_cannot_be_retried(sitq: Sitq, stored: Stored) -> None:
    done = sitq("retry", stored.succeeded, stored.cancelled, stored.failed)
    assert done.code == 1
    succeeded, cancelled = done.err.splitlines()
    assert succeeded.endswith("is succeeded; only failed and cancelled ones can be retried")
    assert "the key" in cancelled
    assert done.out == f"{stored.failed}: pending again\n"


def test_retry_by_state(sitq: Sitq, stored: Stored) -> None:
    assert sitq("retry", "--state", "failed", "--queue", "io").out == ""
    done = sitq("retry", "--state", "failed", "--name", "shop.sell")
    assert (done.code, done.out) == (0, f"{stored.failed}: pending again\n")


def test_retry_in_pages(sitq: Sitq, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sitq.cli.change.PAGE", 2)
    sitq("migrate")
    ids = on_backend(path, lambda backend: _cancelled(TaskQueue(backend), 7))
    assert sitq("retry", "--state", "cancelled", "--limit", "5").out.count("\n") == 5
    assert [*states(sitq).values()] == ["pending"] * 5 + ["cancelled"] * 2
    assert sitq("retry", "--state", "cancelled").out.count("\n") == 2
    assert set(states(sitq)) == set(ids)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--queue", "io"],
        ["--state", "succeeded"],
        ["--state", "failed", str(uuid4())],
        ["--state", "nonsense"],
    ],
)
def test_a_retry_of_nothing_in_particular(sitq: Sitq, stored: Stored, arguments: list[str]) -> None:
    done = sitq("retry", *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ([], {"pending", "running"}),
        (["--state", "failed"], {"pending", "running", "succeeded", "cancelled"}),
        (["--queue", "nobody"], {*State}),
        (["--name", "shop.sell"], {"pending", "running"}),
        (["--older-than", "1h"], {*State}),
        (["--older-than", "0s"], {"pending", "running"}),
    ],
)
def test_purge(sitq: Sitq, stored: Stored, options: list[str], left: set[str]) -> None:
    before = len(states(sitq))
    done = sitq("purge", *options)
    after = states(sitq)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{before - len(after)} tasks deleted\n"
    assert {*after.values()} == left


def test_purge_on_either_store(sitq: Sitq, everywhere: Stored) -> None:
    assert sitq("purge", "--json").json == [{"deleted": 3}]
    assert sitq("show", everywhere.succeeded).code == 1


@pytest.mark.parametrize("option", [["--state", "running"], ["--older-than", "soon"]])
def test_what_cannot_be_purged(sitq: Sitq, stored: Stored, option: list[str]) -> None:
    done = sitq("purge", *option)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert len(states(sitq)) == 6


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, 6), ("", 130, 6), ("y", 0, 3)])
def test_it_asks_at_a_terminal(
    sitq: Sitq,
    stored: Stored,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    code: int,
    left: int,
) -> None:
    monkeypatch.setattr(sys, "stdin", _Terminal(f"{answer}\n" if answer else ""))
    done = sitq("purge")
    assert done.code == code
    assert "Delete every task that has ended?" in done.err
    assert len(states(sitq)) == left


@pytest.mark.parametrize("option", ["--yes", "--state=failed", "--older-than=0.1"])
def test_it_does_not_ask(
    sitq: Sitq, stored: Stored, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(sys, "stdin", _Terminal(""))
    assert sitq("purge", option).code == 0


class _Terminal(StringIO):
    def isatty(self) -> bool:
        return True


async def _cancelled(queue: TaskQueue, number: int) -> list[str]:
    calls = [sell.call(str(n)) for n in range(number)]
    handles = await queue.enqueue_many(calls)
    for handle in handles:
        await handle.cancel()
    return [str(handle.id) for handle in handles]

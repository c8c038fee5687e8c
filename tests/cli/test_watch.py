"""``sitq watch``: what it knows, what it draws, and how it ends."""

from __future__ import annotations

import re
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import anyio
import pytest
from rich.console import Console

from sitq import SQLiteBackend, State, TaskQueue, WorkerStatus
from sitq.cli import watch
from sitq.cli.drawing import draw, line
from sitq.cli.snapshot import History, Snapshot, View, look
from sitq.errors import StoreUnavailable, StoreUnusable

from .conftest import Sitq
from .stored import Stored, on_backend, sell
from .terminal import Terminal
from .test_show import PLAIN

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
WORKER = WorkerStatus(
    id=4,
    host="here",
    pid=7,
    queues=("a", "b"),
    concurrency=10,
    lease=15.0,
    started_at=NOW,
    silent=1.5,
    lag=0.01,
    held=3,
    stuck=0,
)


def counts(**given: int) -> dict[State, int]:
    return dict.fromkeys(State, 0) | {State(name): number for name, number in given.items()}


def test_rates() -> None:
    history = History()
    assert history.rate is None
    history.add(100.0, counts(succeeded=1_000))
    assert (history.rate, history.ended) == (None, 0)
    history.add(102.0, counts(succeeded=1_010, failed=10))
    assert (history.rate, history.ended) == (10.0, 20)
    history.add(104.0, counts(succeeded=1_010, failed=10))
    assert (history.rate, history.ended) == (5.0, 20)


def test_rates_are_never_negative() -> None:
    history = History()
    history.add(0.0, counts(succeeded=1_000))
    history.add(1.0, counts(succeeded=5))
    assert (history.rate, history.ended) == (0.0, 0)
    history.add(2.0, counts(succeeded=9))
    assert (history.rate, history.ended) == (2.0, 4)


def test_rates_forget() -> None:
    history = History()
    for moment in range(100):
        history.add(float(moment), counts(succeeded=max(0, 50 - moment) * -10 + 1_000))
    assert history.rate == 0.0
    assert history.ended == 500
    history.add(1_000.0, counts(succeeded=1_090))
    assert history.rate == pytest.approx(90 / 901)


def test_two_looks_at_one_moment() -> None:
    history = History()
    history.add(1.0, counts())
    history.add(1.0, counts(failed=3))
    assert (history.rate, history.ended) == (None, 3)


def test_how_much_of_the_whole_has_ended() -> None:
    view = View(NOW, "here", Snapshot(counts(pending=2, running=1, succeeded=9), (), ()), None, 1)
    assert view.share == 0.25
    assert replace(view, snapshot=Snapshot(counts(failed=4), (), ())).share == 1.0
    assert replace(view, snapshot=Snapshot(counts(), (), ()), ended=0).share == 1.0


def drawn(view: View, width: int = 100, height: int = 24) -> list[str]:
    out = StringIO()
    Console(file=out, width=width, height=height).print(draw(view, width, height))
    return [text.rstrip() for text in out.getvalue().splitlines()]


def test_the_picture() -> None:
    snapshot = Snapshot(counts(pending=2, running=1, failed=9), (PLAIN,), (WORKER,))
    assert drawn(View(NOW, "sqlite:/a.db", snapshot, 2.5, 1)) == [
        "12:00:00 UTC  sqlite:/a.db",
        "pending 2  running 1  succeeded 0  failed 9  cancelled 0  ended 1 (2.5/s)",
        " 25 % [##########------------------------------]  1 of 4 ended since the start",
        "",
        "running: 1",
        "id                                    name        queue  when       attempts  progress",
        "00000000-0000-0000-0000-000000000007  shop.fetch  io     for 1 min         0",
        "",
        "workers: 1",
        "id  place   queues  held  beat       lag    stuck  started",
        " 4  here:7  a, b    3/10  1.5 s ago  10 ms      0  0 ms ago",
    ]


def test_the_newest_of_many_and_the_lapsed_of_all() -> None:
    running = tuple(replace(PLAIN, seq=n) for n in range(200))
    workers = [replace(WORKER, id=n) for n in range(30)]
    workers[-1] = replace(WORKER, id=29, silent=20.0)
    snapshot = Snapshot(counts(running=500), running, tuple(workers))
    told = drawn(View(NOW, "here", snapshot, None, 0))
    assert len(told) == 23
    assert "running: 500, the newest 9" in told
    assert "workers: 30, 5 of them" in told
    assert ["lapsed" in text for text in told[-5:]] == [True] + [False] * 4


def test_trouble_is_shown() -> None:
    view = View(NOW, "here", Snapshot(counts(), (), ()), None, 0, trouble="locked\x1b[2J")
    assert drawn(view)[0] == "12:00:00 UTC  here  no answer: locked\\x1b[2J"
    assert line(view).endswith("(locked\\x1b[2J)")


def test_one_line() -> None:
    lapsed = replace(WORKER, silent=None)
    snapshot = Snapshot(counts(pending=2), (), (WORKER, lapsed))
    assert line(View(NOW, "here", snapshot, 2.5, 3)) == (
        "2025-06-01 12:00:00 UTC  pending 2  running 0  succeeded 0  failed 0  cancelled 0  "
        "ended 3 (2.5/s)  workers 2  lapsed 1"
    )


def test_a_look(everywhere: Stored) -> None:
    found = on_backend(everywhere.place, lambda backend: look(TaskQueue(backend)))
    assert found.counts == counts(pending=2, running=1, succeeded=1, failed=1, cancelled=1)
    assert [task.id for task in found.running] == [everywhere.running]
    assert [worker.host for worker in found.workers] == ["here"]
    assert found.live == 3


class Moody(SQLiteBackend):
    """A store that answers each look otherwise."""

    def __init__(self, *moods: Exception | None) -> None:
        super().__init__(":memory:")
        self._moods = [*moods]

    async def counts(self, queue: str | None = None) -> Any:
        mood = self._moods.pop(0)
        if mood is not None:
            raise mood
        return await super().counts(queue)


def followed(*moods: Exception | None, until_empty: bool = True) -> list[View]:
    """What is shown of such a store."""
    shown: list[View] = []

    async def follow() -> None:
        async with Moody(*moods) as backend:
            follower = watch.Follower(TaskQueue(backend), "here", 0.0)
            await follower.run(shown.append, until_empty=until_empty)

    anyio.run(follow)
    return shown


def test_it_goes_on_when_the_store_does_not_answer() -> None:
    shown = followed(StoreUnavailable("locked"), StoreUnavailable("locked"), None)
    assert [view.trouble for view in shown] == ["locked", "locked", None]


def test_it_rests_as_long_as_a_look_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter([5.0, 0.0, 0.5, 0.4, 60.0, 0.3])
    rests: list[float] = []

    async def sleep(seconds: float) -> None:
        rests.append(seconds)

    async def look_so_long(_: watch.Follower) -> float:
        return next(took)

    async def follow() -> None:
        async with SQLiteBackend(":memory:") as backend:
            follower = watch.Follower(TaskQueue(backend), "here", 1.0)
            await follower.run(lambda _: None, until_empty=False)

    monkeypatch.setattr(watch.Follower, "_look", look_so_long)
    monkeypatch.setattr(watch.anyio, "sleep", sleep)
    with pytest.raises(RuntimeError, match="StopIteration"):
        anyio.run(follow)
    assert rests == pytest.approx([1.0, 1.0, 1.0, 3.6, 3.6, 2.7])


def test_it_ends_when_the_store_is_unusable() -> None:
    with pytest.raises(StoreUnusable, match="gone"):
        followed(StoreUnavailable("locked"), StoreUnusable("gone"))


def test_it_says_how_long_it_has_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PATIENCE", 0.0)

    async def wait() -> View:
        asked = anyio.Event()

        class Silent(Moody):
            async def counts(self, queue: str | None = None) -> Any:
                asked.set()
                await anyio.sleep_forever()

        async with Silent() as backend, anyio.create_task_group() as group:
            follower = watch.Follower(TaskQueue(backend), "here", 0.0)
            group.start_soon(lambda: follower.run(pytest.fail, until_empty=False))
            await asked.wait()
            view = follower.view()
            group.cancel_scope.cancel()
        return view

    assert re.fullmatch(r"for \d+ ms", anyio.run(wait).trouble or "")


def test_lines_until_nothing_is_left(sitq: Sitq, path: Path) -> None:
    sitq("migrate")
    done = sitq("watch", "--until-empty")
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    assert " UTC  pending 0  running 0 " in done.out
    [view] = sitq("watch", "--until-empty", "--json").json
    assert view["snapshot"] == {"counts": counts(), "running": [], "workers": []}
    assert (view["place"], view["rate"], view["trouble"]) == (f"sqlite:{path}", None, None)


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "soon"])
def test_what_is_no_interval(sitq: Sitq, stored: Stored, interval: str) -> None:
    done = sitq("watch", "--interval", interval)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)


in_terminals = pytest.mark.skipif(sys.platform == "win32", reason="no such terminals")


@in_terminals
def test_ctrl_c_ends_it_and_the_terminal_is_as_it_was(path: Path, stored: Stored) -> None:
    with Terminal(path.parent, "watch") as terminal:
        terminal.wait_for("\x1b[?25l")
        terminal.wait_for("workers: 1")
        terminal.press("\x03")
        assert terminal.end() == 130
        assert terminal.is_restored()
        assert "Traceback" not in terminal.text


@in_terminals
def test_sigterm_leaves_the_terminal_as_it_was(path: Path, stored: Stored) -> None:
    with Terminal(path.parent, "watch") as terminal:
        terminal.wait_for("workers: 1")
        terminal.signal(signal.SIGTERM)
        assert terminal.end() == 143
        assert terminal.is_restored()


@in_terminals
def test_it_draws_anew_when_the_terminal_has_another_size(path: Path, stored: Stored) -> None:
    with Terminal(path.parent, "watch", "--interval", "60") as terminal:
        place = terminal.wait_for("shop.fetch")
        terminal.resize(20, 50)
        narrow = terminal.wait_for("\x1b[2J", place)
        place = terminal.wait_for(f"{stored.running}", narrow)
        terminal.wait_for("workers: 1", place)
        terminal.press("\x03")
        assert terminal.end() == 130
        assert "shop.fetch" not in terminal.text[narrow:]


@in_terminals
def test_it_shows_changes_until_nothing_is_left(path: Path) -> None:
    on_backend(path, lambda backend: _enqueue(TaskQueue(backend), 3))
    with Terminal(path.parent, "watch", "--interval", "0.1", "--until-empty") as terminal:
        place = terminal.wait_for("pending 3")
        on_backend(path, lambda backend: _cancel_all(TaskQueue(backend)))
        place = terminal.wait_for("pending 0  running 0", place)
        terminal.wait_for("100 % [####", place)
        assert terminal.end() == 0
        assert terminal.is_restored()


async def _enqueue(queue: TaskQueue, number: int) -> None:
    await queue.enqueue_many([sell.call(str(n)) for n in range(number)])


async def _cancel_all(queue: TaskQueue) -> None:
    for task in await queue.find():
        await queue.cancel(task.id)


@in_terminals
def test_it_goes_on_until_the_file_is_there_no_more(path: Path, stored: Stored) -> None:
    with Terminal(path.parent, "watch", "--interval", "0.1") as terminal:
        terminal.wait_for("workers: 1")
        path.rename(path.with_name("elsewhere.db"))
        assert terminal.end() == 1
        assert terminal.is_restored()
    assert "was deleted or replaced; restart what uses it" in terminal.text


@in_terminals
def test_a_dumb_terminal_gets_lines(path: Path, stored: Stored) -> None:
    with Terminal(path.parent, "watch", term="dumb") as terminal:
        terminal.wait_for("workers 1")
        terminal.press("\x03")
        assert terminal.end() == 130
    assert "\x1b" not in terminal.text


@in_terminals
def test_a_narrow_terminal_never_cuts_an_id(path: Path, stored: Stored) -> None:
    with Terminal(path.parent, "ls", columns=20) as terminal:
        assert terminal.end() == 0
    assert str(stored.failed) in terminal.text

"""``sitq worker --reload``: edited code runs, and broken code is waited for to be mended."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from sitq import TaskQueue, task
from sitq.cli.reload import changes, watched

from .command import Command, on_store

CODE = """
from sitq import task

@task(name="speak")
async def speak() -> str:
    return {!r}
"""


@task(name="speak")
async def speak() -> str:
    raise NotImplementedError


def said(path: Path) -> str:
    async def work(queue: TaskQueue) -> str:
        return await (await queue.enqueue(speak)).result(timeout=30)

    return on_store(path / "tasks.db", work)


def test_edited_code_runs(tmp_path: Path) -> None:
    module = tmp_path / "shop" / "tasks.py"
    module.parent.mkdir()
    module.write_text(CODE.format("one"), encoding="utf-8")
    with Command(tmp_path, "worker", "shop.tasks", "-b", "tasks.db", "--reload") as command:
        command.wait_for("worker started")
        assert said(tmp_path) == "one"
        module.write_text(CODE.format("other"), encoding="utf-8")
        command.wait_for("starts again: shop/tasks.py has changed")
        command.wait_for("worker started")
        assert said(tmp_path) == "other"
        module.write_text("1 / 0", encoding="utf-8")
        command.wait_for("cannot import shop.tasks: ZeroDivisionError")
        command.wait_for("waits for a change")
        module.write_text(CODE.format("mended"), encoding="utf-8")
        command.wait_for("worker started")
        assert said(tmp_path) == "mended"
        command.signal(signal.SIGTERM)
        assert command.end() == 0
    assert command.children() == set()


def test_it_can_be_ended_while_it_waits_for_a_change(tmp_path: Path) -> None:
    with Command(tmp_path, "worker", "nowhere", "-b", "tasks.db", "--reload") as command:
        command.wait_for("waits for a change")
        command.signal(signal.SIGTERM)
        assert command.end() == 2


def test_running_tasks_get_a_short_grace(tmp_path: Path) -> None:
    code = "import anyio\n" + CODE.format("done")
    endless = code.replace("return", "print('it runs', flush=True); await anyio.sleep(1e6); return")
    module = tmp_path / "shop.py"
    module.write_text(endless, encoding="utf-8")
    setup = "import sitq.cli.supervisor; sitq.cli.supervisor.RELOAD_GRACE = 0.1"

    async def enqueue(queue: TaskQueue) -> None:
        await queue.enqueue(speak)

    async def wait(queue: TaskQueue) -> str:
        [row] = await queue.find()
        return await queue.handle(row.id).result(timeout=30)

    on_store(tmp_path / "tasks.db", enqueue)
    arguments = ["shop", "-b", "tasks.db", "--reload", "--processes=2"]
    with Command(tmp_path, "worker", *arguments, setup=setup) as command:
        command.wait_for("it runs")
        module.write_text(code, encoding="utf-8")
        assert on_store(tmp_path / "tasks.db", wait) == "done"


def test_what_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here / "mine", elsewhere / "package"):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    (elsewhere / "single.py").touch()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [str(elsewhere), *sys.path])
    assert watched("mine.tasks") == [here]
    assert watched("package.tasks:registry") == [here, elsewhere / "package"]
    assert watched("single") == [here, elsewhere / "single.py"]
    assert watched("nowhere") == [here]
    assert watched("sys") == [here]


def test_watchfiles_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(ImportError, match=r"--reload needs watchfiles: pip install 'sitq\[cli\]'"):
        changes("shop")

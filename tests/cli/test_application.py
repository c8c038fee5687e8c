"""What an operator can name as an application, and what is said when it cannot be had."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sitq import Registry, Worker
from sitq.cli.application import NoApplication, load, registry_of
from sitq.registry import default_registry

SHOP = """
from sitq import Registry, SQLiteBackend, Worker, task

@task
async def sell(): ...

registry, empty = Registry(), Registry()

@registry.task
async def buy(): ...

worker = Worker(SQLiteBackend("shop.db"), registry=registry)
idle = Worker(SQLiteBackend("shop.db"), registry=empty)

class Office:
    worker = worker

def factory():
    return worker

async def coroutine():
    return worker

def other():
    return 1

def needy(name):
    return worker

def broken():
    raise ValueError("first\\nsecond")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(default_registry, "_functions", {})
    before = set(sys.modules)
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_registers_in_the_default_registry(folder: Path) -> None:
    assert load("shop") is default_registry
    assert list(registry_of("shop")) == ["shop.sell"]
    assert sys.path[0] == str(folder)


def test_the_current_folder_comes_first(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "shop.py").write_text("raise ValueError", encoding="utf-8")
    sys.path[:0] = [str(elsewhere), str(folder)]
    assert load("shop") is default_registry


@pytest.mark.parametrize("name", ["worker", "factory", "Office.worker"])
def test_a_worker_or_what_returns_one(name: str) -> None:
    worker = load(f"shop:{name}")
    assert isinstance(worker, Worker)
    assert list(registry_of(f"shop:{name}")) == ["shop.buy"]


def test_a_registry() -> None:
    registry = load("shop:registry")
    assert isinstance(registry, Registry)
    assert list(registry) == ["shop.buy"]


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("", "APP is module or module:name"),
        ("shop:", "APP is module or module:name"),
        ("shop tasks", "APP is module or module:name"),
        ("nowhere", "there is no module nowhere"),
        ("nowhere.shop", "there is no module nowhere"),
        ("shop.nowhere", "there is no module shop.nowhere"),
        ("shop.py", "a module is named without its .py: shop"),
        ("shop:nothing", "shop has no 'nothing'"),
        ("shop:sell", "shop:sell is neither a Registry, nor a Worker, nor a function"),
        ("shop:Office", "shop:Office is neither"),
        ("shop:coroutine", "shop:coroutine is neither"),
        ("shop:other", "shop:other is neither a Registry, nor a Worker, nor a function"),
        ("shop:needy", "shop:needy is to be called without arguments: missing a required"),
        ("shop:broken", "cannot call shop:broken: ValueError: first second (shop.py, line 31)"),
        ("shop:empty", "shop:empty registers no task function; did you mean shop:registry"),
        ("shop:idle", "shop:idle registers no task function"),
    ],
)
def test_what_cannot_be_had(app: str, message: str) -> None:
    with pytest.raises(NoApplication) as caught:
        load(app)
    text = caught.value.format_message()
    assert message in text
    assert "\n" not in text
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("\n1 / 0", "cannot import bad: ZeroDivisionError: division by zero (bad.py, line 2)"),
        ("\n\nx = = 1", "cannot import bad: SyntaxError: invalid syntax (bad.py, line 3)"),
        ("import nowhere", "No module named 'nowhere' (bad.py, line 1)"),
        ("import sys; sys.exit(0)", "cannot import bad: SystemExit: 0 (bad.py, line 1)"),
        ("def f(): raise OSError('x')\nf()", "OSError: x (bad.py, line 1)"),
        ("x = 1", "bad registers no task function; decorate one with @task"),
        ("from shop import registry", "bad registers no task function; did you mean bad:registry?"),
    ],
)
def test_a_module_that_cannot_be_used(
    folder: Path, code: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "shop" in code:
        (folder / "shop.py").write_text(SHOP.replace("@task\n", ""), encoding="utf-8")
    (folder / "bad.py").write_text(code, encoding="utf-8")
    with pytest.raises(NoApplication) as caught:
        load("bad")
    assert message in caught.value.format_message()


def test_ctrl_c_during_an_import_is_no_error_of_the_module(folder: Path) -> None:
    (folder / "slow.py").write_text("raise KeyboardInterrupt", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        load("slow")

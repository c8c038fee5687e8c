"""``sitq enqueue``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import anyio.from_thread
import pytest

from sitq import SQLiteBackend, Worker
from sitq.registry import default_registry

from .conftest import Done, Sitq
from .stored import Stored

SHOP = """
from sitq import Registry, task

@task(queue="io")
async def fetch(url: str, times: int = 1) -> dict[str, object]:
    if not times:
        raise ValueError("not even once")
    return {"url": url, "times": times}

@task(name="stock.count")
def count() -> None: ...

@task(name="mail.count")
def recount() -> None: ...

others = Registry()

@others.task(name="other")
def other() -> None: ...
"""


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(default_registry, "_functions", {})
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    yield
    sys.modules.pop("shop", None)


def the_last(sitq: Sitq) -> dict[str, object]:
    return sitq("ls", "--json").json[-1]


@pytest.mark.parametrize(
    ("name", "arguments", "stored_as"),
    [
        ("shop.fetch", ["a", 2], {"args": ["a", 2], "kwargs": {}}),
        ("fetch", {"url": "a"}, {"args": [], "kwargs": {"url": "a"}}),
        ("stock.count", None, {"args": [], "kwargs": {}}),
    ],
)
def test_it_prints_the_id_alone(
    sitq: Sitq, everywhere: Stored, name: str, arguments: object, stored_as: object
) -> None:
    given = [] if arguments is None else [json.dumps(arguments)]
    done = sitq("enqueue", "--app", "shop", name, *given)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{UUID(done.out.strip())}\n"
    [found] = sitq("show", done.out.strip(), "--arguments", "--json").json
    assert found["task"]["state"] == "pending"
    assert found["arguments"]["value"] == stored_as


def test_options(sitq: Sitq, stored: Stored) -> None:
    options = ["--queue", "q", "--priority", "7", "--delay", "60", "--key", "k", "--timeout", "2"]
    done = sitq("enqueue", "--app", "shop", "fetch", '["a"]', *options)
    task = the_last(sitq)
    assert task["id"] == done.out.strip()
    assert (task["queue"], task["priority"], task["key"]) == ("q", 7, "k")
    again = sitq("enqueue", "--app", "shop", "fetch", '["b"]', "--key", "k")
    assert again.out == done.out


def test_a_registry_that_is_named(sitq: Sitq, stored: Stored) -> None:
    assert sitq("enqueue", "--app", "shop:others", "other").code == 0
    assert the_last(sitq)["name"] == "other"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["fetch", "{"], 2, "the arguments are no JSON: "),
        (["fetch", "[" * 100_000], 2, "the arguments are no JSON: "),
        (["fetch", "'a'"], 2, "the arguments are no JSON: "),
        (["fetch", "1"], 2, "are a JSON array or object"),
        (["fetsch", "[]"], 2, "no task function is named fetsch; did you mean shop.fetch?"),
        (["shop.fetsch", "[]"], 2, "did you mean shop.fetch?"),
        (["zzz"], 2, "no task function is named zzz"),
        (["count"], 2, "more than one task function is named count; did you mean stock.count or"),
        (["fetch"], 2, "missing a required argument: 'url'"),
        (["fetch", '{"uri": "a"}'], 2, "'url'"),
        (["fetch", '["a"]', "--delay", "-1"], 2, "delay must be a number of seconds"),
        (["fetch", '["a"]', "--queue", "a b"], 2, "a queue name is made of letters"),
        (["fetch", '["a"]', "--priority", "high"], 2, "--priority"),
        ([], 2, "NAME"),
    ],
)
def test_nothing_is_stored(
    sitq: Sitq, stored: Stored, arguments: list[str], code: int, says: str
) -> None:
    done = sitq("enqueue", "--app", "shop", *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert says in done.err
    assert len(sitq("ls", "--json").json) == 6


@pytest.mark.parametrize("app", ["shopp", "shop:nothing", "shop.py", "", None])
def test_no_such_application(sitq: Sitq, stored: Stored, app: str | None) -> None:
    done = sitq("enqueue", "fetch", *(() if app is None else ("--app", app)))
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)


def waited_for(sitq: Sitq, path: Path, *arguments: str) -> Done:
    """What the command says while a worker runs in a thread."""
    worker = Worker(SQLiteBackend(path), poll_interval=0.05)
    with anyio.from_thread.start_blocking_portal() as portal:
        running = portal.start_task_soon(worker.run)
        try:
            return sitq("enqueue", "--app", "shop", *arguments, "--wait")
        finally:
            portal.call(worker.stop)
            running.result()


def test_it_waits_for_the_result(sitq: Sitq, path: Path) -> None:
    sitq("migrate")
    done = waited_for(sitq, path, "fetch", '["a", 3]')
    assert done.code == 0
    assert done.json == [{"url": "a", "times": 3}]
    assert done.err == f"sitq: enqueued {the_last(sitq)['id']}\n"


def test_it_says_that_it_failed(sitq: Sitq, path: Path) -> None:
    sitq("migrate")
    done = waited_for(sitq, path, "fetch", '["a", 0]')
    assert (done.code, done.out) == (1, "")
    [_, told] = done.err.splitlines()
    assert told.endswith("(shop.fetch) failed with ValueError: not even once")


def test_it_does_not_wait_for_ever(sitq: Sitq, stored: Stored) -> None:
    done = sitq("enqueue", "--app", "shop", "fetch", '["a"]', "--wait", "--wait-limit", "0")
    assert (done.code, done.out) == (1, "")
    [enqueued, told] = done.err.splitlines()
    id = the_last(sitq)["id"]
    assert enqueued == f"sitq: enqueued {id}"
    assert told == f"sitq: task {id} (shop.fetch) is pending after 0.0 s"

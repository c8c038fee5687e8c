"""Whatever goes wrong, it is said in one line, and the exit code says so too."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from sitq import TaskQueue
from sitq.backends.base import Backend

from .conftest import Sitq
from .stored import Stored, on_backend, sell

ID = str(UUID(int=1))
LOOKING = [["ls"], ["stats"], ["workers"], ["show", ID], ["watch"]]
CHANGING = [["cancel", ID], ["retry", ID], ["retry", "--state", "failed"], ["purge"]]
all_commands = pytest.mark.parametrize("command", LOOKING + CHANGING, ids=" ".join)


@all_commands
@pytest.mark.parametrize(
    ("backend", "code", "says"),
    [
        (None, 2, "name the store: --backend tasks.db, or set SITQ_BACKEND"),
        (":memory:", 2, "a store in memory is of one program alone"),
        ("nowhere.db", 1, "nowhere.db; name another with --backend"),
        ("sqlite:///nowhere.db", 1, "nowhere.db; name another with --backend"),
        ("text", 1, "it is not an SQLite database; name another file"),
        (".", 1, "name a file"),
        ("mysql://there/tasks", 2, "a backend is named by sqlite:///path or postgresql://..."),
        ("sqlite:///a.db?colour=red", 2, "SQLiteBackend has no option 'colour'"),
        ("sqlite:///a.db?busy_limit=long", 2, "busy_limit a value it cannot have: 'long'"),
        ("postgresql://u:secret@127.0.0.1:1/d", 1, "127.0.0.1:1/d"),
        ("newer.db", 1, "has schema version 99"),
    ],
    ids=str,
)
def test_stores_that_cannot_be_used(
    sitq: Sitq,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    backend: str | None,
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SITQ_BACKEND", raising=False)
    Path("text").write_text("no database" * 100, encoding="utf-8")
    with closing(sqlite3.connect("newer.db")) as connection:
        connection.execute("CREATE TABLE sitq_meta (name, value)")
        connection.execute("INSERT INTO sitq_meta VALUES ('version', 99)")
        connection.commit()
    done = sitq(*command, *(() if backend is None else ("--backend", backend)))
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("sitq: ")
    assert done.err.count("\n") == 1
    assert says in done.err
    assert "secret" not in done.err
    assert not Path("nowhere.db").exists()


@pytest.fixture
def locked(stored: Stored) -> Iterator[str]:
    """A store whose lock is held."""
    with closing(sqlite3.connect(stored.place, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield f"sqlite:///{stored.place}?busy_limit=0.01"


@pytest.mark.parametrize("command", CHANGING, ids=" ".join)
def test_a_store_that_is_locked(sitq: Sitq, locked: str, command: list[str]) -> None:
    done = sitq(*command, "--backend", locked)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "another process holds its lock; try again" in done.err


@pytest.mark.parametrize("command", ["ls", "stats", "workers"])
def test_who_only_looks_needs_no_lock(sitq: Sitq, locked: str, command: str) -> None:
    done = sitq(command, "--backend", locked)
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["ls", "--nonsense"],
        ["ls", "--state", "nonsense"],
        ["ls", "--limit", "0"],
        ["ls", "--limit", "many"],
        ["ls", "too", "many"],
        ["show"],
        ["cancel"],
        ["cancel", "nonsense"],
        ["enqueue", "--app", "shop"],
        ["stats", "--queue"],
    ],
    ids=" ".join,
)
def test_commands_that_are_written_wrongly(
    sitq: Sitq, stored: Stored, arguments: list[str]
) -> None:
    done = sitq(*arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("sitq: ")
    assert done.err.endswith(" (sitq --help tells more)\n")


@pytest.mark.parametrize("arguments", [["--queue", "a b"], ["--name", "a b"], ["--key", ""]])
def test_filters_that_fit_nothing(sitq: Sitq, stored: Stored, arguments: list[str]) -> None:
    done = sitq("ls", *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    "command",
    [
        ["ls", "--limit", "2000"],
        ["ls", "--limit", "2000", "--json"],
        ["watch", "--json", "--interval", "0.1"],
    ],
    ids=" ".join,
)
def test_who_reads_it_leaves(
    path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # Python misses a broken pipe then
    on_backend(path, _enqueue_many)
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "sitq", *command],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(writing)
        assert os.read(reading, 1)
        os.close(reading)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (1, "")


async def _enqueue_many(backend: Backend) -> None:
    await TaskQueue(backend).enqueue_many([sell.call("x")] * 2_000)


def test_who_reads_it_was_never_there(path: Path, stored: Stored) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sitq", "stats"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
@pytest.mark.parametrize("command", [["ls"], ["ls", "--json"]])
def test_what_is_printed_finds_no_room(path: Path, stored: Stored, command: list[str]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sitq", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


@pytest.mark.skipif(os.name != "posix", reason="no such shell")
@pytest.mark.parametrize(
    ("command", "code"), [("stats >&-", 0), ("ls --json >&-", 0), ("ls --limit 0 2>&-", 2)]
)
def test_what_it_prints_to_is_closed(path: Path, stored: Stored, command: str, code: int) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -W error -m sitq {command}', sys.executable],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [("sitq w", {"worker", "workers", "watch"}), ("sitq ls --state s", {"succeeded"})],
)
def test_shells_complete_it(words: str, expected: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sitq"],
        env=os.environ
        | {
            "_SITQ_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert {*done.stdout.split()} == expected


def test_a_terminal_that_knows_no_unicode(path: Path) -> None:
    on_backend(path, lambda backend: _enqueue_one(TaskQueue(backend)))
    done = subprocess.run(
        [sys.executable, "-m", "sitq", "ls"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "stra\\xdfe" in done.stdout


async def _enqueue_one(queue: TaskQueue) -> None:
    await queue.enqueue(sell.using(queue="straße"), "x")

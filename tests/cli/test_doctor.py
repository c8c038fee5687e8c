"""``sitq doctor``: what it finds in a file, in its rows, and that it changes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sitq import WorkerStatus
from sitq.cli.doctor import files, rows, sqlite
from sitq.cli.doctor.findings import Finding, Level, examine
from sitq.cli.doctor.rows import Due, Unknown
from sitq.errors import StoreUnavailable

from ..former import fill as fill_former
from ..former import first_version
from .conftest import Done, Sitq
from .stored import Stored, on_backend
from .test_watch import WORKER


def levels(done: Done, about: str) -> list[str]:
    """How bad it is, of what was found about something."""
    return [one["level"] for one in done.json if one["about"] == about]


def whats(done: Done, about: str) -> str:
    return "\n".join(one["what"] for one in done.json if one["about"] == about)


def test_a_store_in_order(sitq: Sitq, stored: Stored) -> None:
    done = sitq("doctor", "--deep", "--json")
    assert (done.code, done.err) == (0, "")
    found = {one["about"]: one["level"] for one in done.json}
    assert found.pop("library") in ("ok", "warning")
    assert found.pop("file system") in ("ok", "warning")
    assert set(found.values()) == {"ok"}
    assert found.keys() == {
        *("file", "permissions", "space", "log", "schema", "journal", "pages", "damage"),
        *("workers", "waiting tasks", "clock"),
    }


def test_what_people_read(sitq: Sitq, stored: Stored) -> None:
    with closing(sqlite3.connect(stored.place)) as connection:
        connection.execute("DELETE FROM sitq_worker")
        connection.commit()
    done = sitq("doctor")
    assert done.code == 1
    told = done.out.splitlines()
    place = told.index("problem  workers: 1 running tasks are of workers that have no lease")
    assert told[place + 1] == "         -> they go back at the next sweep of a worker: start one"
    assert told[-1].startswith("problems: ")


def contents(folder: Path) -> dict[str, Any]:
    """What is in a folder, and since when."""
    return {
        path.name: (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes())
        for path in folder.iterdir()
    }


@pytest.mark.parametrize("deep", [True, False])
def test_it_changes_nothing(sitq: Sitq, stored: Stored, path: Path, deep: bool) -> None:
    before = contents(path.parent)
    assert before.keys() == {"tasks.db"}
    sitq("doctor", *(["--deep"] if deep else []))
    assert contents(path.parent) == before


def test_it_leaves_the_log_of_who_was_killed(sitq: Sitq, stored: Stored, path: Path) -> None:
    crashed = path.with_name("crashed")
    crashed.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE sitq_task SET priority = 1")
        connection.commit()
        for name in ("tasks.db", "tasks.db-wal"):
            shutil.copy(path.with_name(name), crashed)
    before = contents(crashed)
    assert levels(sitq("doctor", "--json", "-b", crashed / "tasks.db"), "schema") == ["ok"]
    after = contents(crashed)
    assert after.keys() - before.keys() <= {"tasks.db-shm"}
    assert before.items() <= after.items()


def test_it_does_not_migrate(sitq: Sitq, path: Path) -> None:
    with first_version():
        on_backend(path, fill_former)
    before = contents(path.parent)
    done = sitq("doctor", "--json")
    assert levels(done, "schema") == ["warning"]
    assert "version 1, this sitq has " in whats(done, "schema")
    assert levels(done, "workers") == []
    assert contents(path.parent) == before


def test_a_newer_schema(sitq: Sitq, stored: Stored) -> None:
    with closing(sqlite3.connect(stored.place)) as connection:
        connection.execute("UPDATE sitq_meta SET value = 99 WHERE name = 'version'")
        connection.commit()
    done = sitq("doctor", "--json")
    assert done.code == 1
    assert levels(done, "schema") == ["problem"]
    assert "version 99" in whats(done, "schema")


def test_what_is_no_store(sitq: Sitq, tmp_path: Path) -> None:
    text, empty, folder = (tmp_path / name for name in ("text", "empty", "folder"))
    text.write_text("no database at all" * 100, encoding="utf-8")
    empty.touch()
    folder.mkdir()
    found = {path: sitq("doctor", "--json", "-b", path) for path in (text, empty, folder)}
    missing = sitq("doctor", "--json", "-b", tmp_path / "nowhere" / "tasks.db")
    assert {done.code for done in (*found.values(), missing)} == {1}
    assert "file is not a database" in whats(found[text], "opening")
    assert levels(found[empty], "schema") == ["problem"]
    assert levels(found[folder], "file") == levels(missing, "file") == ["problem"]
    assert "there is no file" in whats(missing, "file")
    assert {path.name for path in tmp_path.iterdir()} == {"text", "empty", "folder"}


def test_a_database_that_is_locked(
    sitq: Sitq, stored: Stored, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LIMIT", 0.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert levels(sitq("doctor", "--json"), "schema") == ["ok"]
        connection.execute("ROLLBACK")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("UPDATE sitq_task SET priority = 1")
        done = sitq("doctor", "--json")
    assert "another process holds its lock" in whats(done, "opening")


def test_a_trigger(sitq: Sitq, stored: Stored) -> None:
    with closing(sqlite3.connect(stored.place)) as connection:
        connection.execute(
            "CREATE TRIGGER spoil AFTER INSERT ON sitq_task BEGIN DELETE FROM sitq_task; END"
        )
    done = sitq("doctor", "--json")
    assert levels(done, "schema") == ["problem"]
    assert "the trigger spoil changes what sitq stores; drop it" in whats(done, "schema")


def test_damage(sitq: Sitq, stored: Stored, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'sitq_ready'"
        [(page,)] = connection.execute(query)
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = bytes(4096)
    path.write_bytes(content)
    assert levels(sitq("doctor", "--json"), "damage") == []
    assert "problem" in levels(sitq("doctor", "--json", "--deep"), "damage")


def test_another_journal(sitq: Sitq, stored: Stored) -> None:
    with closing(sqlite3.connect(stored.place)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    done = sitq("doctor", "--json")
    assert levels(done, "journal") == ["warning"]
    assert "delete, not wal" in whats(done, "journal")


def test_small_pages(sitq: Sitq, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA page_size = 512")
        connection.execute("CREATE TABLE theirs (x)")
    sitq("migrate")
    assert levels(sitq("doctor", "--json"), "pages") == ["warning"]


def only(check: Callable[[Any], Any], patient: Any) -> list[Finding]:
    return [*examine(patient, [check])]


def test_a_check_that_cannot_be_made() -> None:
    def of_nothing(_: None) -> Any:
        raise StoreUnavailable("why")

    [found] = only(of_nothing, None)
    assert (found.level, found.about, found.what) == (Level.PROBLEM, "of nothing", "why")


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ((3, 34, 0), Level.PROBLEM),
        ((3, 40, 1), Level.WARNING),
        ((3, 44, 6), Level.OK),
        ((3, 51, 3), Level.OK),
    ],
)
def test_versions_of_sqlite(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], level: Level
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    [found] = only(files.library, Path())
    assert found.level is level


@pytest.mark.parametrize(
    ("free", "level"), [(1, Level.PROBLEM), (100 << 20, Level.WARNING), (1 << 40, Level.OK)]
)
def test_room(monkeypatch: pytest.MonkeyPatch, free: int, level: Level) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    [found] = only(files.space, Path("/a/tasks.db"))
    assert found.level is level


def test_a_log_that_is_not_cut_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [found] = only(files.log, path)
    assert found.level is Level.OK
    path.with_name("tasks.db-wal").write_bytes(bytes(11))
    monkeypatch.setattr(files, "BLOCKED_LOG", 10)
    [found] = only(files.log, path)
    assert found.level is Level.WARNING
    assert "has 11 bytes" in found.what


MOUNTS = """\
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
22 21 0:20 / /proc rw - proc proc rw
23 21 0:30 / /srv/a\\040b rw shared:1 - nfs4 server:/a rw
24 21 0:31 / /tmp rw - tmpfs tmpfs rw
25 24 0:32 / /tmp rw - fuse.sshfs there:/ rw
"""


@pytest.mark.parametrize(
    ("folder", "kind", "level"),
    [
        ("/srv", "ext4", Level.OK),
        ("/srv/a b/c", "nfs4", Level.PROBLEM),
        ("/tmp/x", "fuse.sshfs", Level.PROBLEM),
        ("/tmpfs", "ext4", Level.OK),
    ],
)
def test_file_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, kind: str, level: Level
) -> None:
    (tmp_path / "mounts").write_text(MOUNTS, encoding="utf-8")
    monkeypatch.setattr(files, "MOUNTS", tmp_path / "mounts")
    assert files.file_system_of(Path(folder)) == kind
    [found] = only(files.file_system, Path(folder) / "tasks.db")
    assert found.level is level


def test_a_file_system_that_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOUNTS", tmp_path / "mounts")
    assert files.file_system_of(tmp_path) is None


def about_permissions(path: Path) -> list[tuple[Level, str]]:
    return [(one.level, one.what) for one in only(files.permissions, path)]


def test_permissions(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch(mode=0o600)
    path.parent.chmod(0o700)
    assert [level for level, _ in about_permissions(path)] == [Level.OK]
    path.chmod(0o644)
    [(level, what)] = about_permissions(path)
    assert level is Level.WARNING
    assert what == f"every user of this machine can use {path}"
    path.chmod(0o600)
    monkeypatch.setattr(os, "access", lambda name, _: str(name) != str(path.parent))
    [(level, what)] = about_permissions(path)
    assert level is Level.PROBLEM
    assert what.endswith(f" cannot read and write {path.parent}")


def test_owners(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def owned(*owners: int) -> None:
        names = [str(path), f"{path}-wal"]
        parts = {
            name: SimpleNamespace(st_uid=owner, st_mode=0o100600)
            for name, owner in zip(names, owners, strict=False)
        }
        monkeypatch.setattr(files, "parts_of", lambda _: parts)

    monkeypatch.setattr(os, "access", lambda _, __: True)
    me, others = os.geteuid(), 4_000_000_000
    owned(me, me)
    assert [level for level, _ in about_permissions(path)] == [Level.OK]
    owned(me, others)
    [(level, what)] = about_permissions(path)
    assert level is Level.WARNING
    assert f"{path}-wal 4000000000" in what
    owned(others, others)
    [(level, what)] = about_permissions(path)
    assert level is Level.WARNING
    assert what.startswith("its files are of 4000000000, and this is ")


def test_a_file_with_two_names(path: Path) -> None:
    path.touch()
    os.link(path, path.with_name("other.db"))
    [found] = only(files.file, path)
    assert found.level is Level.WARNING


NOW = 1_800_000_000.0
STARTED = datetime.fromtimestamp(NOW - 60, UTC)
LIVING = replace(WORKER, queues=None, started_at=STARTED)


class Books:
    """What is in a store, as a test says."""

    def __init__(
        self,
        *workers: WorkerStatus,
        now: float = NOW,
        due: Sequence[Due] = (),
        unknown: Sequence[Unknown] = (),
        orphans: int = 0,
        latest: float | None = None,
    ) -> None:
        self.now = lambda: now
        self.workers = lambda: workers
        self.due = lambda _: due
        self.unknown = lambda: unknown
        self.orphans = lambda: orphans
        self.latest = lambda: latest


WAITS = Due("a", 3, NOW - 30.0)


@pytest.mark.parametrize(
    ("check", "books", "expected"),
    [
        (rows.workers, Books(LIVING), []),
        (rows.workers, Books(replace(LIVING, silent=15.0, held=2)), ["silent for 15 s, and hold"]),
        (rows.workers, Books(replace(LIVING, silent=None)), ["silent since this machine started"]),
        (rows.workers, Books(orphans=4), ["4 running tasks are of workers that have no lease"]),
        (rows.stuck_runs, Books(LIVING), []),
        (rows.stuck_runs, Books(replace(LIVING, stuck=2)), ["2 runs of worker 4 (here:7)"]),
        (rows.lag, Books(LIVING, replace(LIVING, lag=None)), []),
        (rows.lag, Books(replace(LIVING, lag=5.0)), ["of worker 4 (here:7) took 5 s"]),
        (rows.waiting_tasks, Books(LIVING, due=[WAITS]), []),
        (rows.waiting_tasks, Books(due=[WAITS]), ["no worker serves queue a: 3 tasks are due"]),
        (rows.waiting_tasks, Books(replace(LIVING, queues=("b",)), due=[WAITS]), ["no worker"]),
        (rows.waiting_tasks, Books(replace(LIVING, silent=99.0), due=[WAITS]), ["no worker"]),
        (
            rows.waiting_tasks,
            Books(LIVING, due=[WAITS._replace(since=NOW - 7_200.0)]),
            ["queue a is behind: 3 tasks are due, the oldest for 2 h"],
        ),
        (
            rows.unknown_functions,
            Books(unknown=[Unknown("f", 2, NOW - 60.0)]),
            ["no worker knows f, of 2 pending tasks, for 1 min"],
        ),
        (rows.clock, Books(LIVING, latest=NOW + 1.0), []),
        (rows.clock, Books(latest=NOW + 60.0), ["something was stored 1 min in the future"]),
        (
            rows.clock,
            Books(replace(LIVING, started_at=datetime.fromtimestamp(NOW + 60, UTC))),
            ["1 min in the future"],
        ),
        (rows.clock, Books(now=1_000.0), ["it says that this is the past"]),
    ],
)
def test_what_is_stored(check: Any, books: Books, expected: list[str]) -> None:
    found = [one for one in only(check, books) if one.level is not Level.OK]
    assert len(found) == len(expected)
    for one, text in zip(found, expected, strict=True):
        assert text in one.what
        assert one.remedy


def test_a_queue_without_a_worker_becomes_a_problem() -> None:
    long = WAITS._replace(since=NOW - 120.0)
    of = {one.since: only(rows.waiting_tasks, Books(due=[one]))[-1].level for one in (WAITS, long)}
    assert [*of.values()] == [Level.WARNING, Level.PROBLEM]


def test_many_of_one_kind_are_bounded() -> None:
    assert len(only(rows.stuck_runs, Books(*[replace(LIVING, stuck=1)] * 500))) == rows.MOST

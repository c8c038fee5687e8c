"""What can happen to a database file, and to the loops and processes that use it."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from pathlib import Path

import anyio
import pytest

from sitq import SQLiteBackend
from sitq.backends.base import Filter
from sitq.backends.sqlite import verbs
from sitq.backends.sqlite.verbs import SQL
from sitq.errors import (
    NotOpen,
    StoreFull,
    StoreReplaced,
    StoreUnavailable,
    StoreUnusable,
    StoreVersionError,
)
from sitq.model import State

pytestmark = pytest.mark.anyio


async def test_only_the_owner_may_read(path, new):
    async with SQLiteBackend(path) as backend:
        await backend.insert([new()])
        for end in ("", "-wal", "-shm"):
            assert stat.S_IMODE(os.stat(f"{path}{end}").st_mode) == 0o600


async def test_not_a_database(path):
    path.write_bytes(b"this is text, not a database\n" * 100)
    with pytest.raises(StoreUnusable, match="not an SQLite database"):
        await SQLiteBackend(path).open()


async def test_folder_and_missing_folder(tmp_path):
    with pytest.raises(StoreUnusable, match="is a folder"):
        await SQLiteBackend(tmp_path).open()
    with pytest.raises(StoreUnusable, match="no such folder"):
        await SQLiteBackend(tmp_path / "none" / "tasks.db").open()
    with pytest.raises(StoreUnusable, match="too long"):
        await SQLiteBackend(tmp_path / ("x" * 300)).open()
    with pytest.raises(StoreUnusable, match="name a file"):
        await SQLiteBackend(os.devnull).open()


async def test_newer_schema_is_refused_and_left_alone(path):
    async with SQLiteBackend(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE sitq_meta SET value = 99 WHERE name = 'version'")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreVersionError, match="upgrade sitq"):
        await SQLiteBackend(path).open()
    assert path.read_bytes() == before


NOBODY = 65534

OPENS = """
import aiosqlite, anyio, os, sys
from sitq import SQLiteBackend
from sitq.errors import StoreReadOnly

async def main():
    # Not before the loop runs: the modules it imports may be where only root can read.
    if os.getuid() == 0:  # permissions do not bind root
        os.setgid(int(sys.argv[2]))
        os.setuid(int(sys.argv[2]))
    try:
        await SQLiteBackend(sys.argv[1]).open()
    except StoreReadOnly as error:
        print(error)

anyio.run(main)
"""


@pytest.mark.parametrize("locked", ["file", "folder", "both", "new file"])
def test_read_only(locked):
    with tempfile.TemporaryDirectory(prefix="sitq") as name:
        folder = Path(name)
        path = folder / "tasks.db"
        if locked != "new file":
            anyio.run(_create, path)
        if locked != "folder" and path.exists():
            path.chmod(0o444)
        folder.chmod(0o777 if locked == "file" else 0o555)
        command = [sys.executable, "-P", "-c", OPENS, str(path), str(NOBODY)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        folder.chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert "permissions" in done.stdout


async def _create(path):
    async with SQLiteBackend(path):
        pass


@pytest.mark.parametrize("instead", [None, "a file"])
async def test_what_was_refused_while_the_folder_was_away_is_not_stored(tmp_path, new, instead):
    folder, away = tmp_path / "folder", tmp_path / "away"
    folder.mkdir()
    errors = []
    async with SQLiteBackend(folder / "tasks.db") as backend:
        kept = new()
        await backend.insert([kept])

        async def insert():
            try:
                await backend.insert([new()])
            except StoreReplaced as error:
                errors.append(error)

        folder.rename(away)
        if instead:
            folder.write_text(instead)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(insert)
        if instead:
            folder.unlink()
        away.rename(folder)
        assert len(errors) == 3
        assert [row.id for row in await backend.find(Filter(), after=0, limit=9)] == [kept.id]


async def test_full_and_room_again(path, new):
    async with SQLiteBackend(path) as backend:
        writer = backend._opened.writer
        await writer.run(lambda c: c.execute("PRAGMA max_page_count = 1") and None)
        with pytest.raises(StoreFull):
            await backend.insert([new(arguments=bytes(100_000))])
        await writer.run(lambda c: c.execute("PRAGMA max_page_count = 100000") and None)
        await backend.insert([new(arguments=bytes(100_000))])
        assert (await backend.counts())[State.PENDING] == 1


@pytest.mark.parametrize("replaced", [False, True])
async def test_deleted_or_replaced(path, new, replaced):
    async with SQLiteBackend(path) as backend:
        await backend.insert([new()])
        path.rename(path.with_name("moved"))
        if replaced:
            path.touch()
        with pytest.raises(StoreReplaced):
            await backend.insert([new()])


async def test_locked_by_a_stranger(path, new):
    async with SQLiteBackend(path, busy_limit=0.05) as backend:
        stranger = sqlite3.connect(path, isolation_level=None)
        stranger.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="try again"):
            await backend.insert([new()])
        stranger.close()
        await backend.insert([new()])


async def test_what_is_ready_is_opened_while_it_is_locked(path, new):
    async with SQLiteBackend(path) as backend:
        await backend.insert([new()])
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        async with SQLiteBackend(path, busy_limit=0) as backend:
            assert (await backend.counts())[State.PENDING] == 1


OPEN = """
import sys, anyio
from sitq import SQLiteBackend
async def main():
    async with SQLiteBackend(sys.argv[1]) as backend:
        await backend.counts()
anyio.run(main)
"""


async def test_eight_processes_create_it_at_once(path):
    made = [subprocess.Popen([sys.executable, "-P", "-c", OPEN, str(path)]) for _ in range(8)]
    assert [process.wait(30) for process in made] == [0] * 8


async def test_a_program_that_never_closes_exits(path, anyio_backend_name):
    never = (
        "import sys, anyio\nfrom sitq import SQLiteBackend\n"
        "b = SQLiteBackend(sys.argv[1])\nanyio.run(b.counts, backend=sys.argv[2])\n"
    )
    program = [sys.executable, "-P", "-c", never, str(path), anyio_backend_name]
    assert subprocess.run(program, timeout=20, check=False).returncode == 0


async def test_use_after_close(path):
    backend = SQLiteBackend(path)
    async with backend:
        pass
    with pytest.raises(NotOpen):
        await backend.counts()
    async with backend:
        await backend.counts()


async def test_use_in_another_loop(path):
    async with SQLiteBackend(path) as backend:
        with pytest.raises(NotOpen, match="another event loop"):
            await anyio.to_thread.run_sync(lambda: asyncio.run(backend.counts()))


def test_an_ended_loop_leaves_it_usable(path):
    backend = SQLiteBackend(path)
    anyio.run(backend.counts)
    anyio.run(backend.counts, backend="trio")

    async def close():
        async with backend:
            await backend.counts()

    anyio.run(close)


async def test_first_use_by_many(path, new):
    backend = SQLiteBackend(path)
    async with anyio.create_task_group() as tg:
        for _ in range(50):
            tg.start_soon(backend.insert, [new()])
    assert (await backend.counts())[State.PENDING] == 50
    await backend.close()


async def test_cancelled_inserts_are_whole_or_absent(path, new):
    async with SQLiteBackend(path) as backend:
        for delay in (0, 0, 0.0002, 0.001, 0.003):
            with anyio.move_on_after(delay):
                await backend.insert([new() for _ in range(3)])
        await backend.insert([new() for _ in range(3)])
        assert (await backend.counts())[State.PENDING] % 3 == 0
        assert not await backend._opened.writer.run(lambda c: c.in_transaction)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_native_cancellation(path, new, anyio_backend):
    async with SQLiteBackend(path) as backend:
        for delay in (0, 0.0002, 0.001, 0.003):
            with suppress(TimeoutError):
                await asyncio.wait_for(backend.insert([new(), new()]), delay)
        await backend.insert([new(), new()])
        assert (await backend.counts())[State.PENDING] % 2 == 0
        assert not await backend._opened.writer.run(lambda c: c.in_transaction)


async def test_one_bad_row_does_not_fail_strangers(path, new):
    twin = new()
    errors = []
    async with SQLiteBackend(path) as backend:

        async def insert(*tasks):
            try:
                await backend.insert(tasks)
            except sqlite3.IntegrityError as error:
                errors.append(error)

        async with anyio.create_task_group() as tg:
            tg.start_soon(insert, new())
            tg.start_soon(insert, twin, twin)
            tg.start_soon(insert, new())
        assert len(errors) == 1
        assert (await backend.counts())[State.PENDING] == 2
        assert twin.id not in {row.id for row in await backend.find(Filter(), after=0, limit=9)}


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("ready", "sitq_ready"),
        ("ready_suspect", "sitq_suspect"),
        ("next_due", "sitq_ready"),
        ("pairs", "sitq_ready"),
        ("held_by", "sitq_held"),
        ("cancelled", "sitq_held"),
        ("workers", "sitq_held"),
        ("find_running", "sitq_held"),
        ("key_holder", "sitq_live_key"),
        ("ended_since", "sitq_ended"),
        ("ends", "sitq_ended"),
        ("expired", "sitq_expiring"),
        ("forgotten", "sitq_unknown"),
    ],
)
async def test_hot_queries_walk_partial_indexes(path, query, index):
    sql = SQL[query]
    parameters = len(set(re.findall(r"\?\d+", sql))) or sql.count("?")
    async with SQLiteBackend(path) as backend:
        plan = await backend._opened.reader.run(
            lambda c: c.execute("EXPLAIN QUERY PLAN " + sql, [None] * parameters).fetchall()
        )
    steps = [row[3] for row in plan if "sitq_task" in row[3]]
    assert steps
    assert all(index in step for step in steps), steps


async def test_the_names_of_queues_cost_no_walk_through_the_history(path):
    async with SQLiteBackend(path) as backend:
        plan = await backend._opened.reader.run(
            lambda c: c.execute("EXPLAIN QUERY PLAN " + SQL["queues"]).fetchall()
        )
    steps = [row[3] for row in plan if "sitq_task" in row[3]]
    assert [re.findall(r"sitq_ready|sitq_held", step) for step in steps] == [
        ["sitq_ready"],
        ["sitq_ready"],
        ["sitq_held"],
    ]


@pytest.mark.parametrize(
    ("query", "step"),
    [
        ("get", "SEARCH sitq_task USING INDEX sqlite_autoindex_sitq_task_1 (id=?)"),
        ("find", "SEARCH sitq_task USING INTEGER PRIMARY KEY (rowid>?)"),
        ("tree", "SEARCH sitq_task USING INTEGER PRIMARY KEY (rowid=?)"),
        ("progress", "SEARCH sitq_task USING INTEGER PRIMARY KEY (rowid=?)"),
    ],
)
async def test_progress_is_looked_up_by_number(path, query, step):
    sql = SQL[query]
    parameters = len(set(re.findall(r"\?\d+", sql))) or sql.count("?")
    async with SQLiteBackend(path) as backend:
        plan = await backend._opened.reader.run(
            lambda c: c.execute("EXPLAIN QUERY PLAN " + sql, [None] * parameters).fetchall()
        )
    steps = [row[3] for row in plan]
    assert step in steps
    looked_up = [s for s in steps if s.startswith("SEARCH sitq_progress USING INTEGER PRIMARY KEY")]
    assert len(looked_up) == (query != "progress"), steps
    assert not any("MATERIALIZE told" in s or "SCAN sitq_progress" in s for s in steps), steps


async def test_several_queues_are_walked_without_sorting(path):
    sql = verbs._merged(3)
    async with SQLiteBackend(path) as backend:
        plan = await backend._opened.reader.run(
            lambda c: c.execute("EXPLAIN QUERY PLAN " + sql, [None] * sql.count("?")).fetchall()
        )
    steps = [row[3] for row in plan]
    assert sum("sitq_ready" in step for step in steps) == 3
    assert not any("ORDER BY" in step for step in steps), steps

"""The random machine over our own stores: in memory and in a file, on asyncio and on trio."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

from hypothesis import settings

from sitq import SQLiteBackend
from sitq.backends.base import Backend
from sitq.testing import Clock, QueueMachine

from ..postgres import backend_at, fresh_schema


class FileMachine(QueueMachine):
    """Over a file that two backends have open, as two processes would."""

    def make_backend(self, clock: Clock) -> Backend:
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "tasks.db"
        return SQLiteBackend(self._path, synchronous="NORMAL", clock=clock)

    def make_peer(self, clock: Clock) -> Backend:
        return SQLiteBackend(self._path, synchronous="NORMAL", clock=clock)

    def check_closed(self) -> None:
        with closing(sqlite3.connect(self._path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            for table in ("sitq_big", "sitq_progress"):
                orphans = f"SELECT 1 FROM {table} WHERE seq NOT IN (SELECT seq FROM sitq_task)"
                assert connection.execute(orphans).fetchall() == []
        self._folder.cleanup()


class PostgresMachine(QueueMachine):
    """Over a schema that two backends use, as two machines would."""

    def make_backend(self, clock: Clock) -> Backend:
        self._schemas = ExitStack()
        self._schema = self._schemas.enter_context(fresh_schema())
        return backend_at(self._schema, clock=clock)

    def make_peer(self, clock: Clock) -> Backend:
        return backend_at(self._schema, clock=clock)

    def check_closed(self) -> None:
        self._schemas.close()


class TrioPostgresMachine(PostgresMachine):
    loop = "trio"


class TrioMachine(QueueMachine):
    loop = "trio"


class TrioFileMachine(FileMachine):
    loop = "trio"


PROFILE = settings()
# The usual 100 examples would take half a minute; files take longer than memory.
QUICK = settings(max_examples=PROFILE.max_examples // 10, deadline=None)
SLOW = settings(max_examples=PROFILE.max_examples // 20, deadline=None)

TestMemory = QueueMachine.TestCase
TestMemory.settings = QUICK
TestMemoryOnTrio = TrioMachine.TestCase
TestMemoryOnTrio.settings = QUICK
TestFile = FileMachine.TestCase
TestFile.settings = SLOW
TestFileOnTrio = TrioFileMachine.TestCase
TestFileOnTrio.settings = SLOW
TestPostgres = PostgresMachine.TestCase
TestPostgres.settings = SLOW
TestPostgresOnTrio = TrioPostgresMachine.TestCase
TestPostgresOnTrio.settings = SLOW

"""The random machine over our own stores: in memory on asyncio, in a file on trio."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings

from sitq import SQLiteBackend
from sitq.backends.base import Backend
from sitq.testing import ManualClock, QueueMachine

SETTINGS = settings(max_examples=25, stateful_step_count=30, deadline=None)


class FileMachine(QueueMachine):
    """Over a file, on trio."""

    loop = "trio"

    def make_backend(self, clock: ManualClock) -> Backend:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "tasks.db"
        return SQLiteBackend(path, synchronous="NORMAL", clock=clock)

    def teardown(self) -> None:
        super().teardown()
        self._folder.cleanup()


TestMemory = QueueMachine.TestCase
TestMemory.settings = SETTINGS
TestFile = FileMachine.TestCase
TestFile.settings = SETTINGS

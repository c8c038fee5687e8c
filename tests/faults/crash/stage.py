"""A database whose changes are noted, and processes that share it."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio

from sitq import Call, SQLiteBackend, TaskQueue
from sitq.model import TaskRow

from .history import Histories
from .journal import allowed, connect, entries, install
from .zygote import Zygote


class Stage:
    """One database in a folder of its own.

    Args:
        zygote: has the processes.
        folder: an empty one.
    """

    def __init__(self, zygote: Zygote, folder: Path) -> None:
        self.path = folder / "tasks.db"
        self.folder = folder
        self._zygote = zygote
        self._numbers = itertools.count()
        self.enqueue([])
        install(self.path)

    def spawn(
        self, role: str, loop: str, failpoint: Mapping[str, Any] | None = None, **options: Any
    ) -> int:
        """Start a process that uses the database. Returns its process id.

        Args:
            role: one of `crash.roles`.
            loop: ``asyncio`` or ``trio``.
            failpoint: ``point``, ``countdown`` and ``barrier`` of `crash.roles.Part`.
            options: of the role.
        """
        number = next(self._numbers)
        part = {
            "path": str(self.path),
            "folder": str(self.folder),
            "slot": f"{role}{number}",
            "loop": loop,
            "seed": number,
            **(failpoint or {}),
        }
        return self._zygote.spawn(role, part=part, **options)

    def stop(self, pid: int) -> None:
        """Stop a process, at a moment when none of its threads holds the lock of the database."""
        with closing(connect(self.path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            self._zygote.signal(pid, signal.SIGSTOP)
            self._zygote.wait("stopped", pid)

    def enqueue(self, calls: Sequence[Call[Any]]) -> list[bytes]:
        """Enqueue these. Returns the ids."""

        async def main() -> list[bytes]:
            async with TaskQueue(SQLiteBackend(self.path)) as queue:
                return [handle.id.bytes for handle in await queue.enqueue_many(calls)]

        with allowed():
            return anyio.run(main)

    def task(self, id: bytes) -> TaskRow:
        """A task as it is now."""

        async def main() -> TaskRow | None:
            async with SQLiteBackend(self.path) as backend:
                return await backend.get(id)

        with allowed():
            found = anyio.run(main)
        assert found is not None
        return found

    def histories(self) -> Histories:
        """What became of every task so far."""
        with closing(connect(self.path)) as connection:
            return Histories(entries(connection))

"""A program with a queue and a worker that does what it is told, line by line.

Run as a script it obeys its standard input; imported, it is the handle by which a test holds it.
"""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from sitq import Registry, SQLiteBackend, TaskQueue, Worker
from sitq.backends.base import Heart
from sitq.errors import SitqError
from sitq.model import WorkerRecord

LIMIT = 60.0
"""Seconds after which a program is killed that has not ended by itself."""
registry = Registry()
runs: list[int] = []
gates: list[anyio.Event] = []


@registry.task(name="sized")
async def sized(size: int) -> bytes:
    runs.append(size)
    return bytes(size)


@registry.task(name="gated")
async def gated(size: int) -> bytes:
    """Runs until it is told ``release``."""
    runs.append(size)
    gates.append(anyio.Event())
    logging.info("run begins")
    await gates[-1].wait()
    return bytes(size)


class Commands:
    """What the program can be told, a method each."""

    def __init__(self, backend: SQLiteBackend) -> None:
        self._backend = backend
        self._queue = TaskQueue(backend)
        self._worker: Worker | None = None
        self._heart: Heart | None = None
        self._connections = 0
        sys.addaudithook(self._count)

    async def enqueue(self, name: str, size: int, times: int = 1) -> Any:
        function = registry.get(name)
        assert function is not None
        handles = await self._queue.enqueue_many([function.call(size)] * times)
        return handles[-1].id

    async def padded(self, size: int) -> Any:
        """Enqueue what takes so much room by itself, and waits for an hour."""
        return (await self._queue.enqueue(sized.using(delay=3600), "x" * size)).id

    async def twice(self, size: int) -> str:
        """Two of these, in two transactions of which the second follows at once."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.padded, size)
            for _ in range(5):  # the first one is under way
                await anyio.lowlevel.checkpoint()
            group.start_soon(self.padded, size)
        return "done"

    async def work(self, lease: str = "15", poll_interval: str = "0.2") -> str:
        self._worker = Worker(
            self._backend,
            registry=registry,
            lease=float(lease),
            poll_interval=float(poll_interval),
            retention=None,
            grace=0,
        )
        await self._worker.start()
        return "works"

    async def stop(self) -> str:
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.stop()
        return "stopped"

    async def hire(self) -> int:
        """Enter a worker whose heart beats when it is told to, and only then."""
        worker = await self._backend.hire(WorkerRecord("here", 1, None, 1, 15.0))
        self._heart = self._backend.heart(worker)
        return worker

    async def beat(self) -> Any:
        assert self._heart is not None
        return await anyio.to_thread.run_sync(self._heart.beat, 0.0)

    async def release(self) -> str:
        gates.pop().set()
        return "released"

    async def result(self, id: str) -> Any:
        result = await self._queue.get_result(id, timeout=LIMIT / 2)
        return None if result is None else len(result.value)

    async def cancel(self, id: str) -> Any:
        return await self._queue.cancel(id)

    async def purge(self) -> Any:
        return await self._queue.purge()

    async def counts(self) -> Any:
        return {state.value: count for state, count in (await self._queue.counts()).items()}

    async def runs(self) -> Any:
        return len(runs)

    async def connections(self) -> Any:
        """How many the process has made since it began to listen."""
        return self._connections

    async def limit(self, size: int) -> str:
        """Let no file grow beyond so many bytes; -1: let them."""
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        return "limited"

    async def pages(self, more: int) -> str:
        """Let the writer's database grow by so many pages from here."""
        writer = self._backend._opened.writer

        def set_bound(connection: Any) -> None:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages + more}")

        await writer.run(set_bound)
        return "bounded"

    def _count(self, event: str, _: object) -> None:
        self._connections += event == "sqlite3.connect"


async def obey(path: str, synchronous: Any) -> None:
    async with SQLiteBackend(path, synchronous=synchronous) as backend:
        commands = Commands(backend)
        say("ready")
        while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            name, *rest = line.split()
            arguments = [int(part) if part.lstrip("-").isdigit() else part for part in rest]
            try:
                say(str(await getattr(commands, name)(*arguments)))
            except SitqError as error:
                say(f"{type(error).__name__}: {error}")
        with suppress(SitqError):
            await commands.stop()


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


class Said(logging.Handler):
    """Says what is logged too, behind a mark."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"log: {record.getMessage()}")


class Program:
    """The handle of a test: starts the program, tells it things, and ends it."""

    def __init__(
        self,
        path: Path,
        *,
        loop: str = "asyncio",
        synchronous: str = "FULL",
        environment: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
    ) -> None:
        self._logged: deque[str] = deque()
        self._process = subprocess.Popen(
            [*under, sys.executable, "-P", __file__, str(path), synchronous, loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._limit = threading.Timer(LIMIT, self._process.kill)
        self._limit.start()
        self.said = self._answer()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    def tell(self, command: str) -> str:
        """Its answer to a command."""
        self.post(command)
        return self._answer()

    def post(self, command: str) -> None:
        """Tell it something, and leave the answer for later."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def wait_for_log(self, text: str) -> str:
        """Wait until it has logged something with this text, after what was waited for before."""
        line = ""
        while text not in line:
            line = self._logged.popleft() if self._logged else self._line()
            assert line.startswith("log: "), line
        return line

    def end(self) -> int:
        """Close its input, and wait for its end. Returns its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        code = self._process.wait()
        self._limit.cancel()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def _answer(self) -> str:
        while (line := self._line()).startswith("log: "):
            self._logged.append(line)
        return line

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the program ended, or was killed because it took too long"
        return line.rstrip("\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, handlers=[Said()])
    anyio.run(obey, *sys.argv[1:3], backend=sys.argv[3])

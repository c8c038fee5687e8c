"""A server of one's own, to be killed: it keeps what it promised, as it flushes to the disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from ... import postgres

__all__ = ["OwnServer", "own_server"]


class OwnServer:
    """A server that runs, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        made: Any = postgres.start(folder)
        self._folder = folder
        self._user = made.system_user
        self._pg_ctl = str(made.bin_path / "pg_ctl")
        self._socket = made.get_postmaster_info().socket_dir
        self.url: str = made.get_uri()

    def kill(self) -> None:
        """Kill it with all its children, at once."""
        master = psutil.Process(int((self._folder / "postmaster.pid").read_text().split()[0]))
        with suppress(psutil.NoSuchProcess):
            master.send_signal(signal.SIGSTOP)  # or it would start more of them
            processes = [master, *master.children(recursive=True)]
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=30)

    def stop_at_once(self) -> None:
        """Stop it without ending anything: it has to recover when it is started."""
        self._ctl("-m", "immediate", "stop")

    def start(self) -> None:
        """Start it again; returns when it takes connections."""
        self._ctl("-o", f'-h "" -k {self._socket}', "-l", str(self._folder / "log"), "start")

    def close(self) -> None:
        """End it, and remove the folder."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ctl(self, *arguments: str) -> None:
        command = [self._pg_ctl, "-w", "-D", str(self._folder), *arguments]
        with open(os.devnull, "w") as nothing:
            subprocess.run(
                command,
                user=self._user,
                check=True,
                stdout=nothing,
                stderr=nothing,
                timeout=60,
                cwd="/",
            )


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """A server for the block."""
    folder = Path(tempfile.mkdtemp(prefix="sitq-pg-"))
    folder.chmod(0o755)
    try:
        server = OwnServer(folder / "data")
        try:
            yield server
        finally:
            server.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)

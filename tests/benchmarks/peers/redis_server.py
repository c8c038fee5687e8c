"""A Redis server for one measurement, without persistence, as its peers are fastest."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from time import monotonic, sleep

from tests.benchmarks.setting import Setting

__all__ = ["is_installed", "redis_server"]

PATIENCE = 10.0


def is_installed() -> bool:
    """Whether there is a server to start."""
    return shutil.which("redis-server") is not None


@contextmanager
def redis_server(setting: Setting) -> Generator[str]:
    """Run a server until the end of the block. Gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", setting.folder]
    process = subprocess.Popen(
        ["redis-server", *options, "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL
    )
    with process:
        try:
            _until_it_answers(port)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.kill()


def _until_it_answers(port: int) -> None:
    end = monotonic() + PATIENCE
    while monotonic() < end:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        sleep(0.01)
    raise TimeoutError("redis-server does not answer")

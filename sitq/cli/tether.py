"""The tether between a worker process and its supervisor: a socket that both can see break.

The process tells by it that its application is loaded, and how much grace its tasks have. When the
supervisor ends, however it does, the socket is at its end, and the process stops gracefully.
"""

from __future__ import annotations

import logging
import socket
import struct
from contextlib import suppress

import anyio
from anyio import create_task_group

from sitq.worker import Worker

__all__ = ["grace_told", "run_tethered"]

logger: logging.Logger = logging.getLogger("sitq.worker")

_GRACE = struct.Struct("!d")


async def grace_told(end: socket.socket) -> float | None:
    """The grace that a process tells of once it is loaded; None if it ends before."""
    await anyio.wait_readable(end)
    data = end.recv(_GRACE.size)
    return _GRACE.unpack(data)[0] if data else None


async def run_tethered(worker: Worker, descriptor: int) -> None:
    """Run a worker until a signal, or until its supervisor has ended.

    Args:
        worker: of the application, which is loaded.
        descriptor: of the socket, which the process was given when it was started.

    Raises:
        Exception: what broke the worker, or its lifespan.
        OSError: it is no socket.
        SystemExit: after a second signal.
    """
    raised: BaseException | None = None
    with socket.socket(fileno=descriptor) as tether:
        with suppress(BrokenPipeError):  # it has ended
            tether.send(_GRACE.pack(worker.grace))
        async with create_task_group() as group:
            group.start_soon(_stop_without_supervisor, worker, tether)
            try:
                await worker.run(handle_signals=True)
            except (Exception, SystemExit) as error:
                raised = error
            group.cancel_scope.cancel()
    if raised is not None:
        raise raised


async def _stop_without_supervisor(worker: Worker, tether: socket.socket) -> None:
    await anyio.wait_readable(tether)
    logger.warning("stops: the supervisor has ended")
    await worker.stop()

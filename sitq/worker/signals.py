"""Turns signals into stops: the first is graceful, a second at once, a third ends the process."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import NoReturn

import anyio

from sitq.errors import UsageError
from sitq.worker.program import STOPS
from sitq.worker.run import Cause
from sitq.worker.shift import Stop, log_event

__all__ = ["Signals", "end_process", "obey", "receive"]

Signals = AsyncIterator[signal.Signals]


def receive() -> AbstractContextManager[Signals]:
    """Receive the signals that stop a worker, while the block runs.

    A signal that the process was started to ignore, as ``nohup`` does with SIGHUP, stays ignored.

    Raises:
        UsageError: this is not the main thread, the only one that can receive signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise UsageError("handle_signals works in the main thread only; stop the worker from there")
    return anyio.open_signal_receiver(
        *(one for one in STOPS if signal.getsignal(one) is not signal.SIG_IGN)
    )


async def obey(signals: Signals, stop: Stop, grace: float) -> None:
    """Stop a worker as the signals say."""
    async for received in signals:
        if stop.signal is not None:
            end_process(received)
        if stop.cause is None:
            log_event(logging.INFO, "stops: signal received", signal=received.name, grace=grace)
            stop.request(Cause.SHUTDOWN, grace)
        else:
            log_event(logging.WARNING, "stops at once: signal received", signal=received.name)
            stop.hurry(received)


def end_process(number: int) -> NoReturn:
    """End this process by a signal, whatever its threads are doing; who waits for it sees which."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)

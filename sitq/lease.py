"""The heartbeat: a plain thread that renews a worker's lease, so that a blocked loop keeps it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sitq.backends.base import Heart

__all__ = ["Heartbeat"]


class Heartbeat:
    """Renews a lease from a thread of its own.

    Args:
        heart: renews it.
        interval: seconds between two beats.
        lost: called on the thread when the lease was taken; the thread has ended then.
    """

    def __init__(self, heart: Heart, interval: float, lost: Callable[[], object]) -> None:
        self._heart = heart
        self._interval = interval
        self._lost = lost
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sitq-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more. Returns when the thread has ended."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopped.wait(self._interval):
                if not self._beat():
                    self._lost()
                    return
        finally:
            self._heart.close()

    def _beat(self) -> bool:
        try:
            return self._heart.beat()
        except Exception:  # the next beat may succeed; the worker meets the error itself
            return True

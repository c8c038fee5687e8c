"""Leases, and the heartbeat: a plain thread renews a lease, so that a blocked loop keeps it."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable

import anyio
from anyio import CancelScope, CapacityLimiter, create_task_group, to_thread

from sitq.backends.base import Backend, Heart
from sitq.backends.loop import Loop
from sitq.model import Group, NewGroup, WorkerRecord
from sitq.options import LONGEST

__all__ = ["Heartbeat", "Programs", "record", "start_beats"]

PROGRAM_LEASE = 15.0
"""Seconds after which the groups of a program that died are cancelled."""


def record(lease: float, queues: tuple[str, ...] | None, slots: int) -> WorkerRecord:
    """What others may know of a worker here; or of a program, which serves no queues."""
    import platform  # slow to import, and needed once

    return WorkerRecord(platform.node(), os.getpid(), queues, slots, lease)


class Lag:
    """How long an event loop takes to answer. To be asked from one thread.

    Args:
        call: has a plain function called on the loop.
    """

    def __init__(self, call: Callable[[Callable[[], None]], object]) -> None:
        self._call = call
        self._asked: float | None = None
        self._last = 0.0

    def ask(self) -> None:
        """Put a question to the loop, unless there is one that it has not answered."""
        if self._asked is None:
            self._asked = time.monotonic()
            self._call(self._answer)

    def seconds(self) -> float:
        """What the last answer took, or the next one has taken so far."""
        asked = self._asked
        return self._last if asked is None else time.monotonic() - asked

    def _answer(self) -> None:
        self._last = self.seconds()
        self._asked = None


class Heartbeat:
    """Renews a lease from a thread of its own.

    Args:
        heart: renews it.
        interval: seconds between two beats.
        lost: called on the thread when the lease was taken; the thread has ended then.
        lag: of the event loop, for others to see.
    """

    def __init__(self, heart: Heart, interval: float, lost: Callable[[], object], lag: Lag) -> None:
        self._heart = heart
        self._interval = interval
        self._lost = lost
        self._lag = lag
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
            self._lag.ask()
            while not self._stopped.wait(self._interval):
                if not self._beat():
                    self._lost()
                    return
        finally:
            self._heart.close()

    def _beat(self) -> bool:
        try:
            return self._heart.beat(self._lag.seconds())
        except Exception:  # the next beat may succeed; the worker meets the error itself
            return True
        finally:
            self._lag.ask()


def start_beats(
    backend: Backend, worker: int, lease: float, loop: Loop, lost: Callable[[], object]
) -> Heartbeat | None:
    """Renew a lease from now on, three times as often as it takes; None where nothing renews it.

    Args:
        loop: whose lag is told of.
        lost: called on the thread that beats when the lease was taken.
    """
    heart = backend.heart(worker)
    if heart is None:
        return None
    heartbeat = Heartbeat(heart, lease / 3, lost, Lag(loop.call))
    heartbeat.start()
    return heartbeat


class Programs:
    """The lease under which a program has groups of its own, while it has any.

    Args:
        backend: where the groups are.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._loop = Loop()
        self._lock = anyio.Lock()
        self._lease: int | None = None
        self._heartbeat: Heartbeat | None = None
        self._groups = 0

    def is_here(self) -> bool:
        """Whether it is of the event loop that runs here."""
        return self._loop.is_current()

    async def open_group(self, deadline: float | None, *, detach: bool) -> Group:
        """Open a group. The first one makes the lease.

        Raises:
            LeaseLost: the lease has lapsed, and other groups under it are still open.
        """
        opened: list[Group] = []

        async def open_it() -> None:
            async with self._lock:
                with CancelScope(shield=True):
                    opened.append(await self._open(deadline, detach=detach))

        try:
            # A lease must not be left that nobody knows of, and asyncio walks out of shields.
            async with create_task_group() as tasks:
                tasks.start_soon(open_it)
        except BaseExceptionGroup as errors:
            await self._close_all(opened)
            raise errors.exceptions[0] from None
        except BaseException:
            await self._close_all(opened)
            raise
        [group] = opened
        return group

    async def _close_all(self, groups: list[Group]) -> None:
        async with create_task_group() as tasks:
            for group in groups:
                tasks.start_soon(self._close_shielded, group)

    async def _close_shielded(self, group: Group) -> None:
        with CancelScope(shield=True):
            await self.close_group(group)

    async def _open(self, deadline: float | None, *, detach: bool) -> Group:
        new = NewGroup(None, owner=self._lease, detach=detach, deadline=deadline)
        if self._lease is None:
            beaten = self._backend.heart(0) is not None
            lease = PROGRAM_LEASE if beaten else LONGEST  # the store goes when the program goes
            new = new._replace(owner=record(lease, queues=(), slots=0))
        group = await self._backend.open_group(new)
        if self._lease is None:
            assert group.owner is not None
            self._lease = group.owner
            self._heartbeat = start_beats(
                self._backend, group.owner, PROGRAM_LEASE, self._loop, _nothing
            )
        self._groups += 1
        return group

    async def close_group(self, group: Group) -> bool:
        """Forget a group that has ended. The last one ends the lease. False if it was lost."""
        self._groups -= 1  # whatever becomes of the rest
        async with self._lock:
            is_last = self._groups == 0 and self._lease == group.owner
            if is_last:
                self._lease = None
                await self._end_beats()
            return await self._backend.close_group(group, dismiss=is_last)

    async def _end_beats(self) -> None:
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is not None:
            threads = CapacityLimiter(math.inf)
            await to_thread.run_sync(heartbeat.stop, limiter=threads, abandon_on_cancel=True)


def _nothing() -> None:
    """A group finds out at its end that its lease was lost."""

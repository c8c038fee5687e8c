"""Fixtures for pytest; it finds them by itself where sitq is installed.

This is loaded in every run of pytest, so nothing is imported before a test asks for it. The tests
are those of anyio's plugin for pytest: ``async def``, marked ``@pytest.mark.anyio``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sitq.backends.base import Backend
    from sitq.registry import Registry
    from sitq.testing.clock import Clock
    from sitq.testing.queue import Queue
    from sitq.worker import Worker
    from sitq.worker.lifespan import LifespanFunction

__all__ = [
    "sitq_backend",
    "sitq_clock",
    "sitq_lifespan",
    "sitq_queue",
    "sitq_registry",
    "sitq_worker",
]

POLL = 0.01
"""Seconds after which the worker notices that the clock was moved."""
LEASE = 0.3
"""Three times in so many seconds it looks for tasks whose deadline has passed."""


@pytest.fixture
def sitq_clock() -> Clock:
    """The clock of `sitq_backend`, a `sitq.testing.Clock`: it stands still until it is moved."""
    from sitq.testing.clock import Clock

    return Clock()


@pytest.fixture
def sitq_backend(sitq_clock: Clock) -> Backend:
    """The store: in memory, new for each test. Override it to test on another one."""
    from sitq.backends.sqlite import SQLiteBackend

    return SQLiteBackend(":memory:", clock=sitq_clock)


@pytest.fixture
def sitq_registry() -> Registry:
    """The task functions that `sitq_worker` knows: those of ``@task``. Override it for others."""
    from sitq.registry import default_registry

    return default_registry


@pytest.fixture
def sitq_lifespan() -> LifespanFunction | None:
    """What opens the resources of `sitq_worker`: None. Override it with that of your workers."""
    return None


@pytest.fixture
async def sitq_queue(anyio_backend: object, sitq_backend: Backend) -> AsyncGenerator[Queue]:
    """A `sitq.testing.Queue` on `sitq_backend`, open while the test runs."""
    from sitq.testing.queue import Queue

    async with Queue(sitq_backend) as queue:
        yield queue


@pytest.fixture
async def sitq_worker(
    sitq_queue: Queue,
    sitq_backend: Backend,
    sitq_registry: Registry,
    sitq_lifespan: LifespanFunction | None,
) -> AsyncGenerator[Worker]:
    """A worker on `sitq_backend` that runs while the test does. What runs then still is cancelled.

    It looks for work a hundred times a second, as it does not notice when the clock is moved.
    """
    from sitq.worker import Worker

    worker = Worker(
        sitq_backend,
        registry=sitq_registry,
        poll_interval=POLL,
        lease=LEASE,
        grace=0.0,
        retention=None,
        lifespan=sitq_lifespan,
    )
    await worker.start()  # not entered: a scope that is open in a fixture could cancel the test
    try:
        yield worker
    finally:
        await worker.stop()

"""A sync queue on either loop and either store, and workers in threads of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from sitq import SyncTaskQueue, Worker, backend_from_url

from ..postgres import fresh_schema, server_url
from . import functions as f


@pytest.fixture(params=["asyncio", "trio"])
def loop(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'tasks.db'}?synchronous=NORMAL"


@pytest.fixture
def postgres_url() -> Iterator[str]:
    with fresh_schema() as schema:
        url = server_url()
        yield f"{url}{'&' if '?' in url else '?'}schema={schema}"


@pytest.fixture(params=["file", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def queue(url: str, loop: str) -> Iterator[SyncTaskQueue]:
    f.noted.clear()
    f.gates.clear()
    with SyncTaskQueue(url, loop=loop) as queue:  # type: ignore[arg-type]
        f.queues[:] = [queue]
        yield queue


Working = Callable[..., AbstractContextManager[Worker]]


@pytest.fixture
def working(url: str) -> Working:
    """Runs a worker in a thread for as long as a block lasts."""

    @contextmanager
    def working(loop: str = "asyncio", **options: Any) -> Iterator[Worker]:
        options = {"registry": f.registry, "grace": 2, **options}
        with start_blocking_portal(loop) as portal:
            worker = Worker(backend_from_url(url), **options)
            with portal.wrap_async_context_manager(worker):
                yield worker

    return working

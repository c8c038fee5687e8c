"""Every async test runs on asyncio and on trio; a test that leaks a thread fails."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# `--hypothesis-profile=long` is for hours; what it finds is printed with a line that replays it.
settings.register_profile("default", settings(), print_blob=True)
settings.register_profile(
    "long",
    max_examples=50_000,
    stateful_step_count=100,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("default")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    leaked = _since(before)
    if leaked:
        gc.collect()  # a backend that is dropped ends its threads
    for thread in leaked:
        thread.join(5)
    assert _since(before) == []


def _since(before: set[threading.Thread]) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread not in before and _ours(thread)]


def _ours(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    is_aiosqlite = getattr(target, "__module__", "").startswith("aiosqlite")
    return thread.name.startswith("sitq") or is_aiosqlite

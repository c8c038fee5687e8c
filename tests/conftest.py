"""Every async test runs on asyncio and on trio; one that leaks a thread or descriptor fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from .leaks import nothing_left

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
def no_leaks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with nothing_left(tmp_path_factory.getbasetemp()):
        yield

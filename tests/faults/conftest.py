"""Processes for the tests of faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .crash.zygote import Zygote


@pytest.fixture(scope="session")
def _one_zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with Zygote(tmp_path_factory.mktemp("zygote") / "errors.txt") as zygote:
        yield zygote


@pytest.fixture
def zygote(_one_zygote: Zygote) -> Iterator[Zygote]:
    """Starts processes; those that a test leaves behind are killed."""
    yield _one_zygote
    _one_zygote.clear()

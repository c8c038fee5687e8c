"""Processes for the tests of faults, and a folder in memory for those not about the disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .crash.zygote import Zygote

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def _one_zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with Zygote(tmp_path_factory.mktemp("zygote") / "errors.txt") as zygote:
        yield zygote


@pytest.fixture
def zygote(_one_zygote: Zygote) -> Iterator[Zygote]:
    """Starts processes; those that a test leaves behind are killed."""
    yield _one_zygote
    _one_zygote.clear()


@pytest.fixture(scope="module")
def quick_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where files are kept in memory if the system has such a place."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path_factory.mktemp("quick")
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="sitq-") as folder:
        yield Path(folder)

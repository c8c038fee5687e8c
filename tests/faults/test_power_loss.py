"""The power is lost at some moments of a program's life; ``power_loss.py`` does it at all."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import pytest

from sitq.errors import StoreUnusable

from .power_loss import Recording, check, sample

ROUNDS = 2
CUTS = 18


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_what_a_loss_of_power_leaves(tmp_path: Path, synchronous: str, anyio_backend: str) -> None:
    recording = Recording.make(tmp_path, synchronous, anyio_backend, ROUNDS)
    assert len(recording.facts) > 10 * ROUNDS
    anyio.run(check, recording, sample(recording, CUTS, seed=1), 1, backend=anyio_backend)
    figures = recording.figures
    # The check sees a loss where there is one: what NORMAL puts off is lost.
    assert (figures.worst > 0) == (synchronous == "NORMAL")


def test_the_folder_has_to_be_synced(tmp_path: Path) -> None:
    """And the check knows: without it a new database is gone with all that was acknowledged."""
    recording = Recording.make(tmp_path, "FULL", "asyncio", 1)
    last = [len(recording.records) - 1]
    with suppress(StoreUnusable):
        anyio.run(partial(check, recording, last, 1, honest=False))
    assert recording.figures.worst > 0

"""Every contest: on SQLite, then on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks import catalogue
from tests.benchmarks.contest import Contest
from tests.benchmarks.postgres_catalogue import postgres_contests
from tests.benchmarks.sizes import Sizes

__all__ = ["contests"]


def contests(loop: str, sizes: Sizes) -> Iterator[Contest]:
    """Those of one event loop."""
    yield from catalogue.contests(loop, sizes)
    yield from postgres_contests(loop, sizes)

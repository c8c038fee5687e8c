"""Either store, filled by hand and looked at: that of SQLite or that of PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing, contextmanager

import anyio

from tests.benchmarks import store
from tests.benchmarks.setting import Setting

__all__ = ["fill", "looking", "topped_up", "until_ended"]

LOOK = 0.001
"""Seconds between two looks at how many have ended."""


def fill(setting: Setting, count: int, name: str = "nothing") -> None:
    """Create the tables with so many pending tasks."""
    if setting.database is None:
        store.fill(setting, count, name)
    else:
        from tests.benchmarks import postgres_store

        postgres_store.fill(setting, count, name)


@contextmanager
def topped_up(setting: Setting, pending: int) -> Generator[None]:
    """At the beginning of the block there are so many pending tasks. Tables are created."""
    if setting.database is None:
        with closing(store.topped_up(setting, pending)):
            yield
    else:
        from tests.benchmarks import postgres_store

        postgres_store.top_up(setting, pending)
        yield


@contextmanager
def looking(setting: Setting) -> Generator[Callable[[int], bool]]:
    """Tells whether so many tasks have ended, and that is stored."""
    if setting.database is None:
        with closing(store.connect(setting.path, setting.synchronous)) as connection:
            yield lambda count: store.ended(connection) >= count
    else:
        from tests.benchmarks import postgres_store

        with postgres_store.connect(setting) as server:
            yield lambda count: postgres_store.have_ended(server, count)


async def until_ended(have_ended: Callable[[int], bool], count: int) -> None:
    """Wait until so many tasks have ended and that is stored. To be called when they have run."""
    while not have_ended(count):
        await anyio.sleep(LOOK)

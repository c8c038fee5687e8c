"""litequeue: raw rows in SQLite, synchronous NORMAL; no tasks, no results, no worker."""

from __future__ import annotations

import time

from litequeue import LiteQueue

from tests.benchmarks.setting import URL, Figures, Setting

__all__ = ["bulk", "drain", "one_by_one"]


def one_by_one(setting: Setting, count: int) -> Figures:
    """A row a transaction."""
    queue = LiteQueue(setting.path)
    started = time.perf_counter()
    for _ in range(count):
        queue.put(URL)
    return {"rate_per_s": count / (time.perf_counter() - started)}


def bulk(setting: Setting, count: int) -> Figures:
    """All rows in one transaction."""
    queue = LiteQueue(setting.path)
    started = time.perf_counter()
    with queue.transaction():
        for _ in range(count):
            queue.put(URL)
    return {"rate_per_s": count / (time.perf_counter() - started)}


def drain(setting: Setting, count: int) -> Figures:
    """Take each row and mark it as done."""
    queue = LiteQueue(setting.path)
    with queue.transaction():
        for _ in range(count):
            queue.put(URL)
    started = time.perf_counter()
    while (message := queue.pop()) is not None:
        queue.done(message.message_id)
    return {"rate_per_s": count / (time.perf_counter() - started)}

"""Damages a database at random, and uses it: it works, or it is refused, and nothing else happens.

Much of what is flipped is never noticed: it is a body, or a free page. A sample is part of the
tests; the whole is run by::

    python -m tests.faults.damage --cases 2500
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import anyio

from sitq import Registry, SQLiteBackend, TaskQueue, Worker
from sitq.backends.base import Filter
from sitq.errors import StoreUnusable, TaskError, TaskNotFound

registry = Registry()
PAGE = 4096


@registry.task(name="echo")
async def echo(value: str) -> str:
    return value


@registry.task(name="fail")
async def fail() -> None:
    raise ValueError("x" * 3_000)


async def fill(path: Path) -> None:
    """A database with tasks in every state, small and big ones."""
    async with SQLiteBackend(path, synchronous="NORMAL") as backend:
        queue = TaskQueue(backend)
        async with Worker(backend, registry=registry):
            handles = [await queue.enqueue(echo, "x" * 50 * n) for n in range(40)]
            handles += [await queue.enqueue(fail) for _ in range(5)]
            for handle in handles:
                await queue.get_result(handle, timeout=20)
        await queue.enqueue_many([echo.call("x" * 50 * n) for n in range(60)])
        await queue.enqueue(echo.using(key="key", delay=1000), "later")


def flip(body: bytes, rng: Random) -> bytes:
    """The same with some bits flipped, and sometimes a stretch of nonsense."""
    damaged = bytearray(body)
    for _ in range(rng.randint(1, 8)):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.3:
        place = rng.randrange(len(damaged) // PAGE) * PAGE
        damaged[place : place + PAGE] = rng.randbytes(PAGE)
    return bytes(damaged)


async def use(path: Path) -> str:
    """Do a bit of everything. Returns how it ended."""
    try:
        async with SQLiteBackend(path, synchronous="NORMAL") as backend:
            queue = TaskQueue(backend)
            async with Worker(backend, registry=registry, lease=0.3, max_concurrency=5):
                handle = await queue.enqueue(echo, "new")
                with anyio.move_on_after(0.1):
                    await handle.result()
            await backend.find(Filter(), after=0, limit=1000)
            await queue.purge()
            await queue.counts()
    except StoreUnusable:
        return "refused"
    except (TaskError, TaskNotFound):
        pass  # damage can also look like something else that befell a task
    return "worked"


async def check(cases: Sequence[int]) -> Counter[str]:
    """Damage and use a database once for each seed."""
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await fill(folder / "whole.db")
        body = (folder / "whole.db").read_bytes()
        for case in cases:
            path = folder / f"{case}.db"
            path.write_bytes(flip(body, Random(case)))
            with anyio.fail_after(30):
                ends[await use(path)] += 1
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=2_500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loop", choices=("asyncio", "trio"), default="asyncio")
    options = parser.parse_args()
    logging.disable()
    cases = range(options.seed, options.seed + options.cases)
    print(dict(anyio.run(check, cases, backend=options.loop)))


if __name__ == "__main__":
    main()

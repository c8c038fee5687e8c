"""What the workers of ``sitq demo`` run: ``sitq worker sitq.cli.demo.tasks:registry``."""

from __future__ import annotations

import time

import anyio

from sitq.context import current_task
from sitq.registry import Registry
from sitq.retry import Retry

__all__ = [
    "add",
    "call_friend",
    "count_words",
    "divide",
    "print_pages",
    "registry",
    "square",
    "step",
    "wait",
]

registry: Registry = Registry()
STEP = 0.1
"""Seconds that a step takes."""
PAGE = 0.4
"""Seconds that a page takes."""


@registry.task
async def add(a: int, b: int) -> int:
    return a + b


@registry.task
def count_words(text: str) -> int:
    return len(text.split())


@registry.task(retry=Retry(attempts=5, base=0.05, cap=0.2))
async def call_friend() -> str:
    attempt = current_task().attempt
    if attempt < 3:
        raise ConnectionError("nobody answers")
    return f"hello, at attempt {attempt}"


@registry.task
async def divide(a: int, b: int) -> float:
    return a / b


@registry.task
async def square(n: int) -> int:
    return n * n


@registry.task
def step(n: int, runs: str) -> int:
    with open(runs, "a", encoding="utf-8") as file:
        file.write(f"{n}\n")
    time.sleep(STEP)
    return n


@registry.task
async def print_pages(number: int) -> None:
    for page in range(1, number + 1):
        await anyio.sleep(PAGE)
        current_task().progress(page, number, f"page {page} is printed")


@registry.task
async def wait() -> None:
    await anyio.sleep_forever()

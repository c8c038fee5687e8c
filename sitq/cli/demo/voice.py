"""How the tour speaks: calmly to a person at a terminal, at once to anything else."""

from __future__ import annotations

from collections.abc import Iterable

import anyio
from rich.text import Text

from sitq.cli.output import console
from sitq.cli.text import harmless

__all__ = ["Voice"]

PAUSE = 0.8
"""Seconds before a chapter, for who reads along."""
WIDTH = 34
"""Columns of what stands at the left of a pair."""


class Voice:
    """Prints titles, sentences, and pairs of a thing and what became of it."""

    def __init__(self) -> None:
        self._console = console()
        self._chapter = 0

    async def title(self, text: str) -> None:
        """Begin a chapter."""
        if self._console.is_terminal:
            await anyio.sleep(PAUSE)
        self._chapter += 1
        self.say()
        self._print(f"{self._chapter}. {text}", "bold")

    def say(self, *lines: str) -> None:
        """Print sentences; without any, an empty line."""
        for line in lines or ("",):
            self._print(f"   {line}" if line else "")

    def show(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Print things, and what each is."""
        for left, right in pairs:
            self._print(f"     {left:<{WIDTH}} {right}", "cyan")

    def command(self, *words: str) -> None:
        """Print a command line that a reader could type."""
        self._print(f"     $ {' '.join(words)}", "green")

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(Text(harmless(text), style), soft_wrap=True)

"""What a measurement is told: where its store is, which event loop, how durable."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio

__all__ = ["LOOPS", "URL", "Figures", "Setting", "percentile"]

Figures = dict[str, float]
"""What a measurement gives: by metric, whose name ends in its unit."""

URL = "https://example.org/items"
"""An argument of the calls that are enqueued."""

LOOPS = ("asyncio", "uvloop", "trio")


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how one measurement runs."""

    folder: str
    """Its own, and empty, unless the contest prepared it for all its runs."""
    loop: str = "asyncio"
    synchronous: Literal["FULL", "NORMAL"] = "NORMAL"
    database: str | None = None
    """The address of a PostgreSQL database; None measures SQLite. As empty as the folder."""

    @property
    def path(self) -> str:
        """The database of SQLite."""
        return str(Path(self.folder, "tasks.db"))

    def run(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        """Run a coroutine function in a new event loop of the wanted kind."""
        if self.loop == "trio":
            return anyio.run(function, *args, backend="trio")
        options = {"use_uvloop": self.loop == "uvloop"}
        return anyio.run(function, *args, backend="asyncio", backend_options=options)


def percentile(values: list[float], share: float) -> float:
    """The value that so large a share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]

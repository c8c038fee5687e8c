"""How much memory a process has, and what it has without sitq, which is not imported here."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import aiosqlite

from tests.benchmarks.setting import Figures, Setting

__all__ = ["MEBI", "bare", "forget_peak", "peak", "resident"]

MEBI = 1 << 20


def resident() -> int:
    """Bytes of memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def forget_peak() -> None:
    """Let the peak begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most bytes of memory that this process has had."""
    status = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def bare(setting: Setting) -> Figures:
    """The limit: a process with an event loop and a connection."""
    return setting.run(_bare, setting)


async def _bare(setting: Setting) -> Figures:
    if setting.loop == "trio":  # aiosqlite is imported, but cannot run there
        return {"idle_mib": resident() / MEBI}
    async with aiosqlite.connect(setting.path):
        gc.collect()
        return {"idle_mib": resident() / MEBI}

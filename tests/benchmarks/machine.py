"""What the figures were measured on and with."""

from __future__ import annotations

import os
import platform
import sqlite3
import tempfile
from importlib.metadata import PackageNotFoundError, version

from tests.benchmarks.processes import measured
from tests.benchmarks.setting import Setting

__all__ = ["facts", "version_of"]

PACKAGES = ("sitq", "anyio", "trio", "uvloop", "aiosqlite", "msgpack", "psycopg", "psycopg-pool")
PEERS = (
    *("huey", "litequeue", "saq", "taskiq", "taskiq-redis", "streaq", "redis", "coredis"),
    *("pgqueuer", "asyncpg", "procrastinate"),
)
SYNCS = 500


def version_of(package: str) -> str | None:
    """Which version is installed, if any."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def facts(parent: str | None, syncs: int = SYNCS) -> dict[str, object]:
    """What a reader needs to judge the figures.

    Args:
        parent: the folder that the files of all measurements are made in.
        syncs: how many calls of fdatasync are timed.
    """
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        sync = measured("limits:fdatasync", Setting(folder), {"count": syncs})
        where = os.path.dirname(folder)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "fdatasync_ms": round(sync["p50_ms"], 3),
        "load": round(os.getloadavg()[0], 2),
        "folder": where,
        "packages": {name: version_of(name) for name in PACKAGES},
        "peers": {name: version_of(name) for name in PEERS},
    }


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()

"""Who takes part: sitq, its limits, and those of its peers that are installed."""

from __future__ import annotations

from typing import Any, Literal

from tests.benchmarks import server
from tests.benchmarks.contest import Contestant
from tests.benchmarks.machine import version_of
from tests.benchmarks.peers.redis_server import is_installed

__all__ = [
    "AIOSQLITE", "BY_HAND", "BY_HAND_FULL", "GROUP", "HUEY", "LITEQUEUE", "OURS", "OURS_FULL",
    "PIPED", "PIPED_FULL", "REFERENCE", "SYNC", "THREADS", "absent_peers", "huey", "installed",
    "limit", "litequeue", "ours", "pgqueuer", "procrastinate", "redis",
]  # fmt: skip

OURS, OURS_FULL = "sitq NORMAL", "sitq FULL"
REFERENCE = "reference NORMAL"
BY_HAND, BY_HAND_FULL = "SQL by hand NORMAL", "SQL by hand FULL"
PIPED, PIPED_FULL = "SQL by hand and a pipe NORMAL", "SQL by hand and a pipe FULL"
GROUP, THREADS = "bare task group", "bare to_thread"
SYNC = "one fdatasync a commit"
AIOSQLITE = "bare aiosqlite NORMAL"
HUEY, LITEQUEUE = "huey FULL", "litequeue NORMAL (raw rows)"
REDIS_PEERS = {"saq": "saq", "taskiq": "taskiq-redis", "streaq": "streaq"}
POSTGRES_PEERS = {"PgQueuer": ("pgqueuer", "asyncpg"), "procrastinate": ("procrastinate",)}
BOTH: tuple[tuple[str, Literal["FULL", "NORMAL"]], ...] = ((OURS, "NORMAL"), (OURS_FULL, "FULL"))


def absent_peers() -> list[str]:
    """A line for each peer that takes no part, with the reason."""
    lines = [
        f"{name}: not installed; pip install 'sitq[bench]'"
        for name in ("huey", "litequeue", *REDIS_PEERS.values())
        if version_of(name) is None
    ]
    lines += [
        f"{name}: {needed} not installed; pip install 'sitq[bench]'"
        for name, packages in POSTGRES_PEERS.items()
        for needed in packages
        if version_of(needed) is None
    ]
    if not server.is_there():
        lines.append(f"all on PostgreSQL: no server; name one as {server.NAMED}=postgresql://...")
    if not is_installed():
        lines.append(f"{', '.join(REDIS_PEERS)}: no redis-server on PATH")
    return lines


def ours(measure: str, **parameters: Any) -> tuple[Contestant, ...]:
    """sitq, once without and once with a sync a commit."""
    return tuple(
        Contestant(label, measure, parameters, synchronous=synchronous)
        for label, synchronous in BOTH
    )


def limit(label: str, measure: str, **parameters: Any) -> Contestant:
    """A limit; its label says how durable it is."""
    full = label.endswith("FULL")
    return Contestant(label, measure, parameters, "limit", "FULL" if full else "NORMAL")


def huey(measure: str, **parameters: Any) -> tuple[Contestant, ...]:
    """huey, if it is installed."""
    return installed("huey", HUEY, f"peers.on_huey:{measure}", parameters)


def litequeue(measure: str, **parameters: Any) -> tuple[Contestant, ...]:
    """litequeue, if it is installed."""
    return installed("litequeue", LITEQUEUE, f"peers.on_litequeue:{measure}", parameters)


def installed(
    package: str, label: str, measure: str, parameters: dict[str, Any], loop: str | None = None
) -> tuple[Contestant, ...]:
    """A peer, if its package is installed."""
    if version_of(package) is None:
        return ()
    return (Contestant(label, measure, parameters, "peer", loop=loop),)


def redis(measure: str, loop: str, **parameters: Any) -> tuple[Contestant, ...]:
    """The peers that need Redis, if there is one, and those are installed."""
    if not is_installed():
        return ()
    found: list[Contestant] = []
    for peer, package in REDIS_PEERS.items():
        own_loop = "asyncio" if loop == "trio" and peer != "streaq" else loop
        named = {**parameters, "peer": peer}
        label = f"{peer} (Redis)"
        found += installed(package, label, f"peers.on_redis:{measure}", named, own_loop)
    return tuple(found)


def pgqueuer(
    measure: str, loop: str, *, batches: tuple[int, ...] = (10,), **parameters: Any
) -> tuple[Contestant, ...]:
    """PgQueuer with so many jobs at once to its worker, if it is installed."""
    found: list[Contestant] = []
    for batch in batches if version_of("asyncpg") is not None else ():
        named = {**parameters, "peer": "pgqueuer" if batch == 10 else f"pgqueuer_{batch}"}
        label = f"PgQueuer, {batch} at once" if len(batches) > 1 else "PgQueuer"
        found += _on_postgres("pgqueuer", label, measure, named, loop)
    return tuple(found)


def procrastinate(measure: str, loop: str, **parameters: Any) -> tuple[Contestant, ...]:
    """procrastinate, if it is installed."""
    named = {**parameters, "peer": "procrastinate"}
    return _on_postgres("procrastinate", "procrastinate", measure, named, loop)


def _on_postgres(
    package: str, label: str, measure: str, parameters: dict[str, Any], loop: str
) -> tuple[Contestant, ...]:
    own_loop = "asyncio" if loop == "trio" else loop
    return installed(package, label, f"peers.on_postgres:{measure}", parameters, own_loop)

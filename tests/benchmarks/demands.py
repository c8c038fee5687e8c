"""What is demanded: ratios between the figures of one run, and bounds on single figures."""

from __future__ import annotations

from collections.abc import Iterable

from tests.benchmarks.contest import Demand, Run

__all__ = ["at_least", "at_most", "of_drain_limit", "of_fastest", "ratio"]

RATE = "rate_per_s"


def ratio(
    ours: str,
    other: str,
    bound: float | None,
    *,
    hope: float | None = None,
    sync_ms: float | None = None,
) -> Demand:
    """Our rate as a share of another one."""
    return Demand(
        f"{ours} / {other}",
        lambda run: run[ours][RATE] / run[other][RATE],
        bound,
        hope=hope,
        slowest_sync_ms=sync_ms,
    )


def of_drain_limit(ours: str, sql: str, group: str, bound: float, hope: float) -> Demand:
    """Our rate as a share of what SQL and task group allow if they follow one another."""

    def value(run: Run) -> float:
        return run[ours][RATE] * (1 / run[sql][RATE] + 1 / run[group][RATE])

    return Demand(f"{ours} / limit of ({sql} + {group})", value, bound, hope=hope)


def of_fastest(
    ours: str, others: Iterable[str], bound: float | None, *, hope: float | None = None
) -> Demand:
    """Our rate in terms of the fastest of some others."""
    labels = tuple(others)

    def value(run: Run) -> float:
        return run[ours][RATE] / max(run[label][RATE] for label in labels if label in run)

    return Demand(f"{ours} / fastest of {', '.join(labels)}", value, bound, hope=hope)


def at_most(label: str, metric: str, bound: float, *, hope: float | None = None) -> Demand:
    """A figure that is not to be larger."""
    return Demand(
        f"{label}: {metric}", lambda run: run[label][metric], bound, is_ceiling=True, hope=hope
    )


def at_least(label: str, metric: str, bound: float, *, sync_ms: float | None = None) -> Demand:
    """A figure that is not to be smaller."""
    return Demand(
        f"{label}: {metric}", lambda run: run[label][metric], bound, slowest_sync_ms=sync_ms
    )

"""Prints what came of the contests, and writes it as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.contest import Contest, Demand, Outcome

__all__ = ["document", "print_facts", "print_outcome", "print_reach", "write"]

WIDTH = 44
UNITS = {
    "_per_s": "/s",
    "_ms": " ms",
    "_percent": " %",
    "_kib": " KiB",
    "_mib": " MiB",
}
PEER_SETTINGS = {
    "huey": "SQLite, WAL, synchronous FULL, results stored, one thread",
    "litequeue": "SQLite, WAL, synchronous NORMAL, raw rows: no tasks, no results",
    "saq, taskiq, streaq": "Redis without persistence: not durable; results stored",
    "PgQueuer": "asyncpg, one connection to work, tuned for autovacuum, durable; a log, no results",
    "procrastinate": "its PsycopgConnector with its own pool, concurrency as slots; no results",
}


def print_facts(facts: Mapping[str, Any], absent: list[str]) -> None:
    """The machine, the versions, the peers."""
    print(
        f"{facts['cores']} cores ({facts['processor']}), {facts['kernel']}, "
        f"Python {facts['python']}, SQLite {facts['sqlite']}"
    )
    print(
        f"files in {facts['folder']}, one fdatasync takes {facts['fdatasync_ms']} ms, "
        f"load at the start {facts['load']}"
    )
    for kind in ("packages", "peers"):
        print(f"{kind}: {', '.join(f'{name} {v}' for name, v in facts[kind].items() if v)}")
    if "postgresql" in facts:
        settings = ", ".join(f"{name} {value}" for name, value in facts["postgresql"].items())
        print(f"PostgreSQL: {settings}")
    for name, settings in PEER_SETTINGS.items():
        print(f"  {name}: {settings}")
    for line in absent:
        print(f"  left out: {line}")
    print(flush=True)


def print_outcome(outcome: Outcome, sync_ms: float) -> None:
    """A table of medians, then the demands."""
    print(f"{outcome.contest.name} [{outcome.loop}]: {outcome.contest.title}")
    for contestant in outcome.contest.contestants:
        medians = outcome.medians(contestant.label)
        shown = "   ".join(_figure(metric, value) for metric, value in medians.items())
        label = f"{contestant.label} ({contestant.kind})"
        if contestant.kind == "sitq":
            label = contestant.label
        print(f"  {label:{WIDTH}} {shown or 'failed: ' + _failure(outcome, contestant.label)}")
    for demand in outcome.contest.demands:
        print(f"  > {_reach(outcome, demand, sync_ms)}")
    print(flush=True)


def _failure(outcome: Outcome, label: str) -> str:
    return (outcome.failures.get(label, "").splitlines() or ["it gave no figures"])[-1]


def _figure(metric: str, value: float) -> str:
    for ending, unit in UNITS.items():
        if metric.endswith(ending):
            number = f"{value:,.0f}" if unit == "/s" else f"{value:,.2f}"
            return f"{metric.removesuffix(ending)} {number}{unit}"
    return f"{metric} {value:,.2f}"


def _reach(outcome: Outcome, demand: Demand, sync_ms: float) -> str:
    value = outcome.reached(demand)
    wanted = _wanted(demand)
    if value is None:
        return f"{demand.what}: not measured ({wanted})"
    return f"{demand.what}: {value:,.3g} ({wanted}): {_verdict(demand, value, sync_ms)}"


def _wanted(demand: Demand) -> str:
    words: list[str] = []
    if demand.bound is not None:
        words.append(f"at {'most' if demand.is_ceiling else 'least'} {demand.bound:g}")
    if demand.hope is not None:
        words.append(f"hope {demand.hope:g}")
    return ", ".join(words)


def _verdict(demand: Demand, value: float, sync_ms: float) -> str:
    slowest = demand.slowest_sync_ms
    if slowest is not None and sync_ms > slowest:
        return f"not demanded where fdatasync takes more than {slowest:g} ms"
    verdict = "met" if demand.is_met(value) else "NOT MET"
    return f"hope {verdict}" if demand.bound is None else verdict


def print_reach(outcomes: list[Outcome], sync_ms: float) -> None:
    """All demands once more, together."""
    print("Reach")
    for outcome in outcomes:
        for demand in outcome.contest.demands:
            where = f"{outcome.contest.name} [{outcome.loop}]"
            print(f"  {where:28} {_reach(outcome, demand, sync_ms)}")


def document(
    facts: Mapping[str, Any], absent: list[str], outcomes: list[Outcome], settings: dict[str, Any]
) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "machine": dict(facts),
        "left_out": absent,
        "peer_settings": PEER_SETTINGS,
        "settings": settings,
        "contests": [_contest(outcome, facts["fdatasync_ms"]) for outcome in outcomes],
    }


def _contest(outcome: Outcome, sync_ms: float) -> dict[str, Any]:
    contest: Contest = outcome.contest
    return {
        "name": contest.name,
        "title": contest.title,
        "loop": outcome.loop,
        "contestants": [
            {
                "label": contestant.label,
                "kind": contestant.kind,
                "synchronous": contestant.synchronous,
                "loop": contestant.loop or outcome.loop,
                "parameters": contestant.parameters,
                "medians": outcome.medians(contestant.label),
                "runs": [run[contestant.label] for run in outcome.runs if contestant.label in run],
                "failure": outcome.failures.get(contestant.label),
            }
            for contestant in contest.contestants
        ],
        "reach": [_demand(outcome, demand, sync_ms) for demand in contest.demands],
    }


def _demand(outcome: Outcome, demand: Demand, sync_ms: float) -> dict[str, Any]:
    value = outcome.reached(demand)
    return {
        "what": demand.what,
        "value": value,
        "at_most" if demand.is_ceiling else "at_least": demand.bound,
        "hope": demand.hope,
        "verdict": "not measured" if value is None else _verdict(demand, value, sync_ms).lower(),
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write the JSON document."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

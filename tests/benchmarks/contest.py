"""A contest: sitq, its limits and its peers do the same work, in turns, and are compared."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tests.benchmarks import server
from tests.benchmarks.processes import MeasurementFailed, measured
from tests.benchmarks.setting import Figures, Setting

__all__ = ["Contest", "Contestant", "Demand", "Outcome", "Run", "hold"]

Run = Mapping[str, Figures]
"""The figures of one run, by the label of the contestant."""
Measure = Callable[[str, Setting, dict[str, Any]], Figures]


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who takes part."""

    label: str
    measure: str
    parameters: dict[str, Any]
    kind: Literal["sitq", "reference", "limit", "peer"] = "sitq"
    synchronous: Literal["FULL", "NORMAL"] = "NORMAL"
    loop: str | None = None
    """None for that of the contest."""
    is_prepared: bool = False
    """Whether it works on the store that was prepared for all runs, not on a new one."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be reached, as a figure of one run."""

    what: str
    value: Callable[[Run], float]
    bound: float | None
    """None if it is only hoped for."""
    is_ceiling: bool = False
    """Whether the bound is the most that is allowed; otherwise the least."""
    hope: float | None = None
    slowest_sync_ms: float | None = None
    """Where a sync of the disk takes longer the demand does not hold."""

    def is_met(self, value: float) -> bool:
        """Whether the value is on the right side of the bound, or of what is hoped for."""
        bound = self.hope if self.bound is None else self.bound
        assert bound is not None
        return value <= bound if self.is_ceiling else value >= bound


@dataclass(frozen=True, slots=True)
class Contest:
    """Who does what, and what is demanded."""

    name: str
    title: str
    contestants: tuple[Contestant, ...]
    demands: tuple[Demand, ...] = ()
    prepare: tuple[str, dict[str, Any]] | None = None
    """A measurement that makes the prepared store, and its parameters."""
    on_postgres: bool = False
    """Whether each turn gets a new database of a PostgreSQL server."""


@dataclass(slots=True)
class Outcome:
    """What came of a contest."""

    contest: Contest
    loop: str
    runs: list[dict[str, Figures]] = field(default_factory=list[dict[str, Figures]])
    failures: dict[str, str] = field(default_factory=dict[str, str])
    """What was said by who failed, by label."""

    def medians(self, label: str) -> Figures:
        """The median of each metric of a contestant; nothing if it failed."""
        runs = [run[label] for run in self.runs if label in run]
        if not runs or label in self.failures:
            return {}
        return {metric: statistics.median(run[metric] for run in runs) for metric in runs[0]}

    def reached(self, demand: Demand) -> float | None:
        """The median of the demanded value over the runs; None if it could not be measured."""
        try:
            return statistics.median(demand.value(run) for run in self.runs)
        except (KeyError, ValueError, statistics.StatisticsError):
            return None


def hold(
    contest: Contest, loop: str, runs: int, parent: str | None, measure: Measure = measured
) -> Outcome:
    """Let the contestants take turns.

    Args:
        contest: which one.
        loop: the event loop.
        runs: how many turns each gets.
        parent: the folder for the files; None for the system's.
        measure: takes one measurement.
    """
    outcome = Outcome(contest, loop)
    with _place(contest, loop, parent) as prepared:
        _prepare(outcome, prepared, measure)
        for _ in range(runs):
            outcome.runs.append({})
            for contestant in contest.contestants:
                _take_turn(outcome, contestant, prepared, parent, measure)
    return outcome


@contextmanager
def _place(contest: Contest, loop: str, parent: str | None) -> Generator[Setting]:
    """A new folder, and a new database if one is needed, until the end of the block."""
    with tempfile.TemporaryDirectory(dir=parent, prefix="sitq-benchmark-") as folder:
        setting = Setting(folder, loop)
        if not contest.on_postgres:
            yield setting
        else:
            with server.fresh_database(parent) as database:
                yield replace(setting, database=database)


def _prepare(outcome: Outcome, prepared: Setting, measure: Measure) -> None:
    if outcome.contest.prepare is None:
        return
    name, parameters = outcome.contest.prepare
    try:
        measure(name, prepared, parameters)
    except MeasurementFailed as failure:
        outcome.failures |= {
            one.label: str(failure) for one in outcome.contest.contestants if one.is_prepared
        }


def _take_turn(
    outcome: Outcome,
    contestant: Contestant,
    prepared: Setting,
    parent: str | None,
    measure: Measure,
) -> None:
    if contestant.label in outcome.failures:
        return
    new = _place(outcome.contest, outcome.loop, parent)
    with nullcontext(prepared) if contestant.is_prepared else new as place:
        loop = contestant.loop or outcome.loop
        setting = replace(place, loop=loop, synchronous=contestant.synchronous)
        try:
            figures = measure(contestant.measure, setting, contestant.parameters)
        except MeasurementFailed as failure:
            outcome.failures[contestant.label] = str(failure)
        else:
            outcome.runs[-1][contestant.label] = figures

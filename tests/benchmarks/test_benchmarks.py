"""The benchmark still runs. What it measures is for `run.py`: no figure is looked at here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from .. import postgres
from . import run, server
from .child import take
from .contest import Contest, Contestant, Outcome, hold
from .demands import at_most, of_drain_limit, of_fastest, ratio
from .processes import MeasurementFailed, measured
from .programme import contests
from .report import document, print_outcome, print_reach
from .setting import Figures, Setting
from .sizes import QUICK, USUAL

PATIENCE = 60.0


def each_measurement_once(loop: str) -> Iterator[Contest]:
    """The contests, less peers, which may not be installed, and less what was measured before."""
    known: set[tuple[str, bool]] = set()
    for contest in contests(loop, QUICK):
        new: list[Contestant] = []
        for one in contest.contestants:
            what = one.measure, contest.on_postgres
            if one.kind != "peer" and what not in known:
                known.add(what)
                new.append(one)
        if new:
            yield replace(contest, contestants=tuple(new))


NAMES = [contest.name for contest in each_measurement_once("asyncio")]
ON_TRIO = {contest.name for contest in each_measurement_once("trio")}


@pytest.fixture(autouse=True)
def postgres_server() -> None:
    """Those on PostgreSQL are held on the server of the tests, started when it is needed."""
    server.use(postgres.server_url)


@pytest.mark.parametrize(("number", "name"), list(enumerate(NAMES)), ids=NAMES)
def test_every_measurement_can_be_taken(number: int, name: str, tmp_path: Path) -> None:
    loop = "asyncio" if name not in ON_TRIO or number % 2 else "trio"
    [contest] = [contest for contest in each_measurement_once(loop) if contest.name == name]
    outcome = hold(contest, loop, 1, str(tmp_path), measure=take)
    assert outcome.failures == {}
    for contestant in outcome.contest.contestants:
        figures = outcome.medians(contestant.label)
        assert figures, contestant.label
        assert all(map(math.isfinite, figures.values()))


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_the_drain_can_be_held_on_both_loops(loop: str, tmp_path: Path) -> None:
    [contest] = [contest for contest in contests(loop, QUICK) if contest.name == "drain"]
    ours = tuple(one for one in contest.contestants if one.kind != "peer")
    contest = replace(contest, contestants=ours)
    outcome = hold(contest, loop, 1, str(tmp_path), measure=take)
    reached = [outcome.reached(demand) for demand in contest.demands[:3]]
    assert None not in reached


def test_the_command_prints_and_writes_figures(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-P", run.__file__, "--quick", "--runs", "1", "--loops", "asyncio"]
    done = subprocess.run(
        [*command, "--only", "memory", "--json", str(figures), "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "memory [asyncio]" in done.stdout
    [contest] = json.loads(figures.read_text())["contests"]
    assert contest["contestants"][0]["medians"].keys() == {"idle_mib", "drain_adds_mib"}
    assert {demand["verdict"] for demand in contest["reach"]} <= {"met", "not met"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures.json"]


def test_names_are_unique() -> None:
    for loop in ("asyncio", "uvloop", "trio"):
        names = [contest.name for contest in contests(loop, USUAL)]
        assert len(names) == len(set(names))


def rates(**found: float) -> dict[str, Figures]:
    return {label: {"rate_per_s": rate} for label, rate in found.items()}


def test_the_limit_of_a_drain_is_sql_then_tasks() -> None:
    demand = of_drain_limit("ours", "sql", "group", 0.6, hope=0.8)
    assert demand.value(rates(ours=30.0, sql=100.0, group=100.0)) == pytest.approx(0.6)


def test_the_fastest_of_those_that_ran_counts() -> None:
    demand = of_fastest("ours", ["a", "b", "absent"], 8.0)
    assert demand.value(rates(ours=80.0, a=1.0, b=10.0)) == 8.0


def test_bounds_have_a_side() -> None:
    assert ratio("ours", "other", 0.75).is_met(0.75)
    assert not ratio("ours", "other", 0.75).is_met(0.74)
    assert at_most("ours", "p50_ms", 1.5).is_met(1.5)
    assert not at_most("ours", "p50_ms", 1.5).is_met(1.6)


def test_a_hope_is_no_demand(capsys: pytest.CaptureFixture[str]) -> None:
    contest = replace(CONTEST, demands=(ratio("ours", "other", None, hope=1.0),))
    print_reach([Outcome(contest, "asyncio", [rates(ours=1.0, other=2.0)])], 0.1)
    assert "0.5 (hope 1): hope NOT MET" in capsys.readouterr().out


def scripted(*answers: dict[str, float | None]) -> Any:
    """Measures by giving what is in a script: run by run, by the name of the measurement."""
    script = [(name, rate) for answer in answers for name, rate in answer.items()]

    def measure(name: str, _: Setting, parameters: dict[str, Any]) -> Figures:
        expected, rate = script.pop(0)
        assert name == expected
        if rate is None:
            raise MeasurementFailed("it broke\nbecause")
        return {"rate_per_s": rate}

    return measure


CONTEST = Contest(
    "name",
    "title",
    (Contestant("ours", "m:a", {}), Contestant("other", "m:b", {}, "peer")),
    (ratio("ours", "other", 2.0, sync_ms=0.2),),
)


def test_contestants_take_turns_and_ratios_are_within_a_run() -> None:
    measure = scripted({"m:a": 1, "m:b": 1}, {"m:a": 8, "m:b": 2}, {"m:a": 9, "m:b": 3})
    outcome = hold(CONTEST, "asyncio", 3, None, measure)
    assert outcome.medians("ours") == {"rate_per_s": 8}
    assert outcome.medians("other") == {"rate_per_s": 2}
    assert outcome.reached(CONTEST.demands[0]) == 3  # of 1, 4, 3


def test_who_fails_once_is_out(capsys: pytest.CaptureFixture[str]) -> None:
    measure = scripted({"m:a": 1, "m:b": 1}, {"m:a": 2, "m:b": None}, {"m:a": 3})
    outcome = hold(CONTEST, "asyncio", 3, None, measure)
    assert outcome.failures == {"other": "it broke\nbecause"}
    assert outcome.medians("other") == {}
    assert outcome.reached(CONTEST.demands[0]) is None
    print_outcome(outcome, 0.1)
    printed = capsys.readouterr().out
    assert "failed: because" in printed
    assert "not measured" in printed


def test_a_slow_disk_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(CONTEST, "asyncio", [rates(ours=1.0, other=1.0)])
    print_reach([outcome], 0.1)
    assert "NOT MET" in capsys.readouterr().out
    print_reach([outcome], 0.3)
    assert "not demanded" in capsys.readouterr().out
    [contest] = document({"fdatasync_ms": 0.3}, [], [outcome], {})["contests"]
    assert contest["reach"][0]["value"] == 1.0


def test_what_was_to_be_prepared_can_fail() -> None:
    ours, other = CONTEST.contestants
    contest = replace(
        CONTEST, prepare=("m:prepare", {}), contestants=(replace(ours, is_prepared=True), other)
    )
    outcome = hold(contest, "asyncio", 1, None, scripted({"m:prepare": None, "m:b": 1}))
    assert outcome.failures.keys() == {"ours"}
    assert outcome.medians("other") == {"rate_per_s": 1}


def test_a_broken_measurement_says_why(tmp_path: Path) -> None:
    with pytest.raises(MeasurementFailed, match="no_such_thing"):
        measured("tasks:no_such_thing", Setting(str(tmp_path)), {})

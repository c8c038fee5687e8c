"""Nothing is lost and nothing is settled twice, while processes are killed all the time."""

from __future__ import annotations

from pathlib import Path

from . import kill


def test_nothing_is_lost_by_kills(tmp_path: Path) -> None:
    figures = kill.run(tmp_path, cycles=25, seed=1)
    assert figures.verdict.violations == [], figures.line()
    assert figures.verdict.acknowledged == figures.verdict.settled > 0
    assert sum(figures.kills.values()) >= 25

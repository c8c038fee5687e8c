"""Trees of tasks on workers that are killed: see `tree`, of which this is a short run."""

from __future__ import annotations

from pathlib import Path

import anyio

from .tree import check, torment


def test_trees_on_workers_that_are_killed(tmp_path: Path) -> None:
    path, journal = str(tmp_path / "tasks.db"), str(tmp_path / "journal")
    trees = anyio.run(torment, path, journal, 10, 7)
    check(path, journal, trees)

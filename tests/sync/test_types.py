"""What a type checker says of a sync queue."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def test_types_of_a_sync_queue() -> None:
    pytest.importorskip("basedpyright")
    sample = Path(__file__).with_name("typing_sync.py")
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, str(sample)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 errors, 0 warnings" in done.stdout

"""Every unit file in the docs is one that systemd takes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```ini\n(.*?)^```$", re.MULTILINE | re.DOTALL)
UNITS = [
    pytest.param(unit, id=f"{page.relative_to(DOCS).as_posix()}-{number}")
    for page in sorted(DOCS.rglob("*.md"))
    for number, unit in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_takes_it(unit: str, tmp_path: Path) -> None:
    (tmp_path / "shop.service").write_text("[Service]\nExecStart=/bin/true\n")  # for a timer
    file = tmp_path / ("shop.timer" if "[Timer]" in unit else "shop.service")
    file.write_text(re.sub(r"(?<=ExecStart=)\S+", "/bin/true", unit))  # it looks for the command

    done = subprocess.run(
        ["systemd-analyze", "verify", file], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_there_are_units() -> None:
    assert len(UNITS) >= 3

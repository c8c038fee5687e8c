"""Every Python block of README and docs runs, page by page, as a script of its own.

Pages that read `TASKS_URL` get a fresh schema of the test server there, and in `DATABASE_URL` the
same server for connections of their own, which make their tables in that schema too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pytest

from sitq.lifecycle import TRANSITIONS

from ..postgres import fresh_schema, server_url

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_runs(page: Path, tmp_path: Path) -> None:
    text = "\n".join(BLOCK.findall(page.read_text(encoding="utf-8")))
    script = tmp_path / "page.py"
    script.write_text(text, encoding="utf-8")
    if "TASKS_URL" in text:
        with fresh_schema() as schema:
            run(script, os.environ | urls(schema))
    else:
        run(script, os.environ)


def urls(schema: str) -> dict[str, str]:
    url = server_url()
    url += "&" if "?" in url else "?"
    search_path = quote(f"-c search_path={schema}")
    return {"TASKS_URL": f"{url}schema={schema}", "DATABASE_URL": f"{url}options={search_path}"}


def run(script: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", script.name],
        cwd=script.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_diagram_lists_the_transitions() -> None:
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^(\w+) +--(\w+)-+> (\w+)$", page, re.MULTILINE)
    table = [(s, e, to) for s, row in TRANSITIONS.items() for e, to in row.items()]
    assert sorted(drawn) == sorted(table)

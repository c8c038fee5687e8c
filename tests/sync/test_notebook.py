"""The cells of the page about notebooks, in a real kernel, beside a real worker."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "notebooks.md"
CELL = re.compile(r"^```py\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE = 60
SHOWN = ["Overwriting sums.py\n", "", "3", "[0, 2, 4]", "42", ""]
SHOWN += ["'Hello, Ada!'", "'Good evening, Ada!'", "", "True"]

INTERRUPTED = """
import os, signal, threading
from sitq import SyncTaskQueue
from sums import add

queue = SyncTaskQueue("sqlite:///tasks.db")
handle = queue.enqueue(add.using(delay=3600), 1, 2)
try:
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    handle.result()
except KeyboardInterrupt:
    print(handle.status())
"""


def run(cells: list[str], folder: Path) -> list[str]:
    """Run the cells in a kernel of their own. Returns what each of them shows."""
    made = [nbformat.v4.new_code_cell(cell) for cell in cells]
    notebook = nbformat.v4.new_notebook(cells=made)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3", resources=where).execute()
    return ["".join(map(shown, cell.outputs)) for cell in notebook.cells]


def shown(output: Any) -> str:
    if output.output_type == "stream":
        return output.text if output.name == "stdout" else ""
    return output.data["text/plain"]


@pytest.fixture
def cells(tmp_path: Path) -> list[str]:
    """Those of the page. What the first one writes is there: the worker begins with it."""
    cells = CELL.findall(PAGE.read_text(encoding="utf-8"))
    magic, _, module = cells[0].partition("\n")
    assert magic == "%%writefile sums.py"
    (tmp_path / "sums.py").write_text(module, encoding="utf-8")
    return cells


@contextmanager
def a_worker(folder: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "sitq", "worker", "sums", "-b", "sqlite:///tasks.db"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            process.terminate()


def test_the_page_runs(cells: list[str], tmp_path: Path) -> None:
    with a_worker(tmp_path):
        assert run(cells, tmp_path) == SHOWN


@pytest.mark.usefixtures("cells")
def test_an_interrupt_ends_a_wait(tmp_path: Path) -> None:
    assert run([INTERRUPTED, "handle.status().value"], tmp_path) == ["pending\n", "'pending'"]

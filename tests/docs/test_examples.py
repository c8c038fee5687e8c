"""Every example and the code of the README run, as users run them: as scripts, elsewhere."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from sitq import SQLiteBackend, State, TaskQueue

from ..postgres import server_url

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
INDEX = EXAMPLES / "index_stdlib.py"
LIMIT = 120
TIME_LIMIT = 60

EXPECTED = {
    "quickstart.py": r"2 \+ 3 = 5",
    "trio_nursery.py": r"\['ONE', 'TWO', 'THREE'\]\nthe nursery is closed",
    "cpu_bound.py": r"answers at once beside 6 heavy.*\n6,057 primes\nkilled: .*timeout of 1",
    "resources.py": r"opens\n\['bread', 'wine'\]\nthree bottles: 33\nthe shop has closed",
    "custom_serializer.py": r"'be': 2000.*took \d+ bytes instead of 19006",
    "specialised_workers.py": r"6 heavy ones wait.*at most \d+ light and [12] heavy",
    "retries.py": r"answered at attempt 3\ngiven up after 1 attempt: builtins\.ValueError",
    "delayed_tasks.py": r"at once: .*after a delay: started 0\.[3-9].*at its moment: ",
    "fan_out.py": r"together 14\nweighed \d.*in order \[1, 2, 3\]\nfailed: the scales end",
    "deadline.py": r"page 1: [12] s are left.*page 2: stopped.*\n2 s have passed",
    "django_shop.py": r"'invoice of order 1: lamp'.*'sold out'.*'orders': 1, 'tasks': 1",
    "several_workers.py": r"120 tasks in all, by \d processes",
}
LOOPED = ("drain_speed.py", "index_stdlib.py", "survey_tree.py")
ON_SERVER = ("on_postgresql.py",)
SERVED = ("fastapi_app.py",)
"""Tested in test_fastapi."""


def command(script: Path, *options: str) -> list[str]:
    return [sys.executable, "-W", "error", str(script), *options]


def run(script: Path, folder: Path, *options: str) -> str:
    """What a script printed, after it ended well."""
    done = subprocess.run(
        command(script, *options),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def figures(output: str) -> dict[str, int]:
    """The summary that index_stdlib.py prints."""
    rows = re.findall(r"^([a-z][a-z ]*?) {2,}([\d,]+)$", output, re.MULTILINE)
    return {name: int(figure.replace(",", "")) for name, figure in rows}


def stdlib_sample(limit: int) -> list[str]:
    """The first files in the order of the example, found in another way than it finds them."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = (path.relative_to(root) for path in root.rglob("*.py"))
    skipped = {"site-packages", "dist-packages", "__pycache__"}
    return sorted(path.as_posix() for path in paths if skipped.isdisjoint(path.parts))[:limit]


class Counts(ast.NodeVisitor):
    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()

    def generic_visit(self, node: ast.AST) -> None:
        kind = type(node).__name__
        self.totals["functions"] += kind in ("FunctionDef", "AsyncFunctionDef")
        self.totals["classes"] += kind == "ClassDef"
        self.totals["imports"] += kind in ("Import", "ImportFrom")
        super().generic_visit(node)


def independent_counts(paths: list[str]) -> dict[str, int]:
    counts = Counts()
    totals = counts.totals
    for path in paths:
        source = Path(sysconfig.get_path("stdlib"), path).read_bytes()
        try:
            counts.visit(compile(source, path, "exec", ast.PyCF_ONLY_AST))
        except (SyntaxError, ValueError):
            totals["errors"] += 1
        else:
            lines = re.split(rb"\r\n|\r|\n", source)
            totals["lines"] += len(lines) - (lines[-1] == b"")
    names = ("lines", "functions", "classes", "imports", "errors")
    return {"files": len(paths)} | {name: totals[name] for name in names}


def test_no_example_is_left_out() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        *EXPECTED,
        *LOOPED,
        *ON_SERVER,
        *SERVED,
    }


@pytest.mark.parametrize("name", EXPECTED)
def test_example_prints_what_it_should(name: str, tmp_path: Path) -> None:
    output = run(EXAMPLES / name, tmp_path)

    assert re.search(EXPECTED[name], output, re.DOTALL), output
    assert list(tmp_path.iterdir()) == []


def test_on_postgresql_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SITQ_EXAMPLE_POSTGRES", raising=False)
    outputs = [run(EXAMPLES / "on_postgresql.py", tmp_path, server_url())]
    monkeypatch.setenv("SITQ_EXAMPLE_POSTGRES", server_url())
    outputs.append(run(EXAMPLES / "on_postgresql.py", tmp_path))

    for output in outputs:
        done = "committed: invoice of order 1\nrolled back: no task\n"
        assert re.fullmatch(done + r"packed: 20 parcels, by [12] processes\n", output), output
    assert list(tmp_path.iterdir()) == []
    with psycopg.connect(server_url()) as connection:
        query = "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, 'sitq_example_')"
        assert connection.execute(query).fetchall() == []


@pytest.mark.parametrize("options", [(), ("--demo",)])
def test_on_postgresql_says_what_it_needs(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SITQ_EXAMPLE_POSTGRES", raising=False)
    output = run(EXAMPLES / "on_postgresql.py", tmp_path, *options)

    assert re.fullmatch(r".* name it as postgresql://.* or in SITQ_EXAMPLE_POSTGRES\n", output)


def test_drain_speed_runs_all_tasks(anyio_backend: str, tmp_path: Path) -> None:
    options = ("--tasks", "3000", "--backend-loop", anyio_backend)
    output = run(EXAMPLES / "drain_speed.py", tmp_path, *options)

    assert re.fullmatch(r"3000 tasks in [\d.]+ s: [\d,]+ tasks/s\n", output), output


def test_survey_tree_counts_what_is_there(tmp_path: Path) -> None:
    output = run(EXAMPLES / "survey_tree.py", tmp_path, "json", "--kill")

    folder = Path(sysconfig.get_path("stdlib"), "json")
    sources = [path.read_text() for path in folder.glob("*.py")]
    lines = sum(source.count("\n") for source in sources)
    assert f"succeeded: {{'files': {len(sources)}, " in output
    assert f"'lines': {lines}, " in output


def test_readme_code_runs_as_a_script(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    script = tmp_path / "readme.py"
    script.write_text(blocks[0])

    assert run(script, tmp_path) == "5\n"


def test_readme_begins_with_the_two_commands() -> None:
    blocks = re.findall(r"```sh\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)

    assert blocks == [
        "pip install . && python examples/index_stdlib.py",
        "pip install '.[test]' && pytest",
    ]


def test_a_file_that_does_not_parse_is_an_entry_with_an_error(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_bytes(b"# coding: no-such-codec\nprint 1\n")
    code = f"import index_stdlib; print(index_stdlib.index_file({str(bad)!r}))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=True,
    )

    assert ast.literal_eval(done.stdout).keys() == {"error"}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
def test_index_killed_in_the_middle_counts_every_file_once(
    anyio_backend: str, tmp_path: Path
) -> None:
    database = tmp_path / "index.db"
    options = ("--limit", str(LIMIT), "--lease", "0.8", "--db", str(database))
    options += ("--backend-loop", anyio_backend)
    kill_in_the_middle(options, tmp_path)
    done_before = len(read_tasks(database)[State.SUCCEEDED])
    assert 0 < done_before < LIMIT

    second = figures(run(INDEX, tmp_path, *options))

    wanted = stdlib_sample(LIMIT)
    tasks = read_tasks(database)
    assert sorted(tasks.pop(State.SUCCEEDED)) == wanted
    assert not any(tasks.values())
    counted = independent_counts(wanted)
    assert {name: second[name] for name in counted} == counted
    assert second["done before"] == done_before
    assert second["done in this run"] == LIMIT - done_before

    third = figures(run(INDEX, tmp_path, *options))

    assert {name: third[name] for name in counted} == counted
    assert (third["done before"], third["done in this run"]) == (LIMIT, 0)


def kill_in_the_middle(options: tuple[str, ...], folder: Path) -> None:
    """Start index_stdlib.py and kill it once it has told that it is under way."""
    with subprocess.Popen(
        command(INDEX, *options), cwd=folder, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if re.match(r"indexed \d+ of ", line):
                break
        process.kill()
        rest = process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    assert f"indexed {LIMIT} of" not in rest


def read_tasks(database: Path) -> dict[State, list[Any]]:
    """The keys of the tasks in each state, read through sitq."""

    async def read() -> dict[State, list[Any]]:
        async with TaskQueue(SQLiteBackend(database)) as queue:
            return {
                state: [task.key for task in await queue.find(state=state, limit=10_000)]
                for state in State
            }

    return anyio.run(read)

"""Whatever is stored, nothing but printable characters and line feeds is printed."""

from __future__ import annotations

import sqlite3
from contextlib import closing, redirect_stdout
from datetime import UTC, datetime, timedelta
from io import StringIO
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from sitq.cli.drawing import draw, line
from sitq.cli.output import print_line, print_table
from sitq.cli.records import TASK, WORKER, task_row, worker_row
from sitq.cli.show import Arguments, Below, Details, Value, lines
from sitq.cli.snapshot import Snapshot, View
from sitq.model import ErrorInfo, Progress, State, Task, WorkerStatus

from .conftest import Sitq
from .stored import Stored

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
TRICKY = "a\x1b[2J\x1b]0;title\x07\u202eb\u2066\u200f\x9b\x7f\r\n\v\t\u2028\ud800\U000e0041 é漢"

texts = st.one_of(
    st.just(TRICKY),
    st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Lo", "Mn"]), max_size=20),
    st.just("x" * 5_000),
)
moments = st.integers(-(10**6), 10**6).map(lambda seconds: NOW + timedelta(seconds=seconds))
numbers = st.floats(0, allow_infinity=False)
totals = st.floats(0, allow_infinity=False, exclude_min=True)
errors = st.recursive(
    st.builds(ErrorInfo, texts, texts, texts, st.tuples(texts)),
    lambda inner: st.builds(
        ErrorInfo, texts, texts, texts, st.tuples(texts), inner, st.tuples(inner)
    ),
    max_leaves=4,
)
tasks = st.builds(
    Task,
    id=st.uuids(),
    seq=st.integers(0, 2**63),
    name=texts,
    queue=texts,
    key=texts,
    state=st.sampled_from(State),
    enqueued_at=moments,
    run_at=moments,
    deadline=moments,
    started_at=st.none() | moments,
    ended_at=moments,
    error=st.none() | errors,
    progress=st.none() | st.builds(Progress, numbers, st.none() | totals, texts, moments),
)
workers = st.builds(
    WorkerStatus,
    host=texts,
    queues=st.none() | st.lists(texts, max_size=3).map(tuple),
    lease=numbers,
    started_at=moments,
    silent=st.none() | numbers,
    lag=st.none() | numbers,
)


def check(text: str) -> None:
    assert all(c == "\n" or c.isprintable() for c in text), ascii(text)


@settings(max_examples=50, deadline=None)
@given(st.lists(tasks, max_size=4), st.lists(workers, max_size=4))
def test_tables(found: list[Task], others: list[WorkerStatus]) -> None:
    with redirect_stdout(StringIO()) as out:
        print_table(TASK, [task_row(task, NOW) for task in found])
        print_table(WORKER, [worker_row(worker, NOW) for worker in others])
    check(out.getvalue())
    assert out.getvalue().count("\n") == len(found) + len(others) + 2


@settings(max_examples=50, deadline=None)
@given(st.lists(tasks, min_size=1, max_size=4), texts)
def test_show(family: list[Task], value: str) -> None:
    values = Value([value]), Value(Arguments((value,), {value: value}))
    details = Details(family[0], *values, [Below(0, None, task) for task in family])
    with redirect_stdout(StringIO()) as out:
        for text in lines(details, NOW):
            print_line(text)
        for text in lines(Details(family[0], Value(unreadable=value), None, None), NOW):
            print_line(text)
    check(out.getvalue())


@settings(max_examples=50, deadline=None)
@given(
    st.lists(tasks, max_size=30),
    st.lists(workers, max_size=5),
    st.none() | texts,
    st.integers(10, 200),
    st.integers(8, 50),
)
def test_the_screen_is_never_larger_than_the_terminal(
    running: list[Task], others: list[WorkerStatus], trouble: str | None, width: int, height: int
) -> None:
    counts = dict.fromkeys(State, len(running))
    view = View(NOW, TRICKY, Snapshot(counts, tuple(running), tuple(others)), 1.5, 3, trouble)
    out = StringIO()
    Console(file=out, width=width, height=height).print(draw(view, width, height))
    check(out.getvalue())
    assert out.getvalue().count("\n") < height
    assert max(map(cell_len, out.getvalue().splitlines())) <= width
    check(line(view))
    assert "\n" not in line(view)


@pytest.mark.parametrize(
    "arguments",
    [["ls"], ["ls", "--json"], ["stats"], ["workers"], ["show", str(UUID(int=1))], ["doctor"]],
    ids=" ".join,
)
def test_rows_that_a_stranger_wrote(sitq: Sitq, stored: Stored, arguments: list[str]) -> None:
    with closing(sqlite3.connect(stored.place)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        text = TRICKY.encode("utf-8", "surrogatepass")
        for column in ("name", "queue", "key"):
            connection.execute(
                f"UPDATE OR IGNORE sitq_task SET {column} = CAST(? AS TEXT)", (text,)
            )
        connection.execute("UPDATE sitq_worker SET host = CAST(? AS TEXT), lease = 1e-9", (text,))
        connection.execute("UPDATE sitq_task SET unknown_since = 1.0, error = ?", (text,))
        connection.execute("UPDATE sitq_task SET id = ? WHERE seq = 1", (UUID(int=1).bytes,))
        connection.commit()
    done = sitq(*arguments)
    check(done.out)
    check(done.err)

"""What `current_task().progress()` takes, and what becomes of it before it is stored."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitq import CurrentTask
from sitq.errors import InvalidOption
from sitq.options import is_note


class Run:
    """Remembers what it is told."""

    told: tuple[float, float | None, str] | None = None

    def tell(self, done: float, total: float | None, note: str) -> None:
        self.told = done, total, note


def told(*values: Any, **named: Any) -> tuple[float, float | None, str] | None:
    run = Run()
    task = CurrentTask(UUID(int=1), "f", "default", 1, datetime.now(UTC), None, cast("Any", run))
    task.progress(*values, **named)
    return run.told


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0,), (0.0, None, "")),
        ((3, 7), (3.0, 7.0, "")),
        ((9, 7, "more than all"), (9.0, 7.0, "more than all")),
        ((5e-324, 1e308, "x" * 501), (5e-324, 1e308, "x" * 500)),
        ((1, 1, "two\r\nlines\x00\x1b[0m\x7f"), (1.0, 1.0, "two  lines  [0m ")),
        ((1, 1, "lone \ud800 surrogate"), (1.0, 1.0, "lone \ufffd surrogate")),
    ],
)
def test_what_is_told(values: Any, expected: object) -> None:
    assert told(*values) == expected


@pytest.mark.parametrize(
    "value", [-1, -5e-324, math.nan, math.inf, -math.inf, 10**400, "1", b"1", None, True, 1j]
)
def test_what_is_no_amount(value: object) -> None:
    with pytest.raises(InvalidOption, match="done must be a finite number from 0"):
        told(value)
    if value is not None:
        with pytest.raises(InvalidOption, match="total must be a finite number above 0"):
            told(1, value)


def test_there_is_something_in_all() -> None:
    with pytest.raises(InvalidOption, match="total must be a finite number above 0: 0"):
        told(0, 0)


@pytest.mark.parametrize("note", [None, b"text", 5, ["text"]])
def test_what_is_no_note(note: object) -> None:
    with pytest.raises(InvalidOption, match="note must be text"):
        told(1, note=note)


@given(st.text(st.characters(), max_size=600))
def test_every_text_becomes_a_note(text: str) -> None:
    found = told(1, note=text)
    assert found is not None
    assert is_note(found[2])
    found[2].encode()

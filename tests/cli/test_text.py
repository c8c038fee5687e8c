"""What is printed is harmless, and says how long things took."""

from __future__ import annotations

import json
import math
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from sitq.cli.output import as_json, print_json, print_line
from sitq.cli.text import ago, bar, cut, harmless, moment, number, represented, seconds, span

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
TRICKY = "a\x1b[31m\u202eb\u2066\x9b\x07\r\n\t\ud800\U000e0041é漢"

texts = st.one_of(
    st.text(), st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Lo"]))
)


def is_harmless(text: str) -> bool:
    return all(c == "\n" or c.isprintable() for c in text)


@given(texts)
def test_nothing_can_control_the_terminal(text: str) -> None:
    assert harmless(text).isprintable()
    assert is_harmless(harmless(text, lines=True))
    assert harmless(text, lines=True).count("\n") >= text.count("\n")


@given(texts, st.integers(1, 50))
def test_cut_is_one_line_and_no_longer(text: str, most: int) -> None:
    line = cut(text, most)
    assert line.isprintable()
    assert len(line) <= most
    assert line == text or line.endswith("…") or not text.isprintable()


def test_what_is_printable_stays() -> None:
    assert harmless("Straße 漢字 שלום 🎉") == "Straße 漢字 שלום 🎉"
    assert harmless(TRICKY) == ("a\\x1b[31m\\u202eb\\u2066\\x9b\\x07\\r\\n\\t\\ud800\\U000e0041é漢")
    assert harmless("a\r\n\tb\u2028c", lines=True) == "a\n    b\nc"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary() | st.just(NOW),
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner) | st.sets(st.integers()),
)


@given(values)
def test_json_is_one_line_of_ascii(value: Any) -> None:
    text = _printed(value)
    assert text.endswith("\n")
    assert text[:-1].isascii()
    assert text[:-1].isprintable()
    json.loads(text, parse_constant=pytest.fail)


def _printed(value: Any) -> str:
    out = StringIO()
    with redirect_stdout(out):
        print_json(value)
    return out.getvalue()


def test_values_as_json() -> None:
    given = {"a": (1, 2.5), 3: NOW, "b": math.inf, "c": b"x", "d": {4}, "e": 10**9_999}
    found = as_json(given)
    assert found["a"] == [1, 2.5]
    assert found["3"] == "2025-06-01T12:00:00+00:00"
    assert (found["b"], found["c"], found["d"]) == ("inf", "b'x'", [4])
    assert isinstance(found["e"], str)


def test_a_line_can_have_several_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(f"first\nsecond {TRICKY}")
    assert is_harmless(capsys.readouterr().out)


@pytest.mark.parametrize(
    "value",
    [10**9_999, "x" * 10_000, ["a"] * 5_000, TRICKY],
    ids=["number", "text", "list", "tricky"],
)
def test_values_as_python_writes_them(value: object) -> None:
    line = represented(value, 100)
    assert line.isprintable()
    assert 0 < len(line) <= 100


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, "0 ms"),
        (0.3401, "340 ms"),
        (1, "1 s"),
        (2.52, "2.5 s"),
        (59.7, "60 s"),
        (60, "1 min"),
        (5_400, "1.5 h"),
        (86_400 * 40, "40 d"),
        (-3, "-3 s"),
    ],
)
def test_spans(length: float, expected: str) -> None:
    assert span(length) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1.5s", 1.5), ("15m", 900), ("2 min", 120), ("12h", 43_200), ("7d", 604_800)],
)
def test_spans_on_the_command_line(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "d", "7x", "-1", "1e5", "7 d d", "٣d", "nan"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write 90, 15m"):
        seconds(text)


def test_moments() -> None:
    assert ago(None) == ""
    assert ago(NOW - timedelta(minutes=3), NOW) == "3 min ago"
    assert ago(NOW + timedelta(seconds=2), NOW) == "in 2 s"
    assert moment(NOW - timedelta(hours=1), NOW) == "2025-06-01 11:00:00 UTC, 1 h ago"
    assert moment(None, NOW) is None


def test_bars() -> None:
    assert bar(0.25) == " 25 % [#####---------------]"
    assert bar(0.999, 10) == " 99 % [#########-]"
    assert bar(7, 4) == "100 % [####]"
    assert bar(-1, 4) == bar(math.nan, 4) == "  0 % [----]"
    assert bar(math.inf, 4) == "100 % [####]"


@given(st.floats(), st.integers(1, 100))
def test_bars_have_one_width(share: float, width: int) -> None:
    assert cell_len(bar(share, width)) == width + 8


@pytest.mark.parametrize(
    ("value", "expected"), [(3.0, "3"), (2.5, "2.5"), (0.0, "0"), (100.0, "100"), (1e20, "1e+20")]
)
def test_numbers(value: float, expected: str) -> None:
    assert number(value) == expected

"""``sitq migrate``."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sitq.backends.sqlite.migrate import RUNGS

from ..former import fill, first_version
from ..postgres import server_url
from .conftest import Sitq
from .stored import on_backend

NEWEST = len(RUNGS)


@pytest.fixture(params=["sqlite", "postgres"])
def place(
    request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path | str]:
    """Of a store that is not there yet."""
    if request.param == "sqlite":
        yield path
        return
    schema = request.getfixturevalue("schema")
    url = server_url()
    url += f"{'&' if '?' in url else '?'}schema={schema}"
    monkeypatch.setenv("SITQ_BACKEND", url)
    yield url


def test_it_makes_a_store(sitq: Sitq, place: Path | str) -> None:
    check = sitq("migrate", "--check")
    assert check.code == 1
    assert check.out.endswith(f" has no tables, is to get version {NEWEST}\n")
    assert not (isinstance(place, Path) and place.exists())
    done = sitq("migrate")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith(f" has no tables, and now version {NEWEST}\n")
    assert sitq("migrate", "--check").code == 0
    assert sitq("migrate").out.endswith(f" is up to date, with schema version {NEWEST}\n")


def test_it_brings_one_up_to_date(sitq: Sitq, place: Path | str) -> None:
    with first_version():
        states = on_backend(place, fill)
    check = sitq("migrate", "--check", "--json")
    assert check.code == 1
    assert [(one["from"], one["to"]) for one in check.json] == [(1, NEWEST)]
    done = sitq("migrate")
    assert done.out.endswith(f" has schema version 1, and now version {NEWEST}\n")
    assert len(sitq("ls", "--json").json) == len(states)


@pytest.mark.parametrize("option", [[], ["--check"], ["--json"]])
def test_a_newer_one(sitq: Sitq, path: Path, option: list[str]) -> None:
    sitq("migrate")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE sitq_meta SET value = 99 WHERE name = 'version'")
        connection.commit()
    done = sitq("migrate", *option)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert f"has schema version 99, this sitq knows {NEWEST}: upgrade sitq" in done.err


@pytest.mark.parametrize("backend", ["text", "folder", "nowhere/tasks.db"])
def test_what_can_be_no_store(sitq: Sitq, tmp_path: Path, backend: str) -> None:
    (tmp_path / "text").write_text("no database" * 100, encoding="utf-8")
    (tmp_path / "folder").mkdir()
    done = sitq("migrate", "--backend", tmp_path / backend)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)

"""The command line, called in this process, on a store with a task in every state."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sitq.__main__ import main

from ..postgres import server_url
from .stored import Stored, fill


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        """The words of each line, without the first line."""
        return [line.split() for line in self.out.splitlines()[1:]]

    @property
    def json(self) -> list[Any]:
        """The values of its lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Sitq = Callable[..., Done]
"""Calls ``sitq`` with these arguments."""


@pytest.fixture
def sitq(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Sitq:
    """Calls a command. Its error is one line, and it has an error if its exit code says so."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["sitq", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert isinstance(code, int)
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the store that commands are about."""
    path = tmp_path / "tasks.db"
    monkeypatch.setenv("SITQ_BACKEND", str(path))
    return path


@pytest.fixture
def stored(path: Path) -> Stored:
    """The tasks of the store at `path`: one in each state, and some more."""
    return fill(path)


@pytest.fixture(params=["sqlite", "postgres"])
def everywhere(
    request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stored]:
    """The same, on either store."""
    if request.param == "sqlite":
        yield fill(path)
        return
    schema = request.getfixturevalue("schema")
    url = server_url()
    url += f"{'&' if '?' in url else '?'}schema={schema}"
    monkeypatch.setenv("SITQ_BACKEND", url)
    yield fill(url)

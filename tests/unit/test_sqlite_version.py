"""Which versions of SQLite are refused or warned about."""

from __future__ import annotations

import sqlite3

import pytest

from sitq.backends.sqlite import version
from sitq.errors import StoreUnusable


@pytest.mark.parametrize(
    ("number", "races"),
    [
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 0), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
        ((4, 0, 0), False),
    ],
)
def test_versions_with_the_reset_race(number: tuple[int, int, int], races: bool) -> None:
    assert version.has_reset_race(number) is races


def test_a_version_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    version.refuse_too_old()
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(StoreUnusable, match="too old"):
        version.refuse_too_old()

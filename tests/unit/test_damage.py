"""The check of every reserved task is the table of fields, spelled out."""

from __future__ import annotations

from typing import Any

import pytest

from sitq.backends.sqlite.damage import _FIELDS, LATEST, MOST, is_sound
from sitq.model import Reservation

SOUND = Reservation(
    1, b"x" * 16, "work", "default", 0, 1, 0, 0, 0, 1.0, None, None, None, b"", 1.0, None
)
CHECKED = [name for name in Reservation._fields if name not in ("seq", "retry", "arguments")]
VALUES: tuple[Any, ...] = (
    *(None, True, "", "work", "no name!", "x" * 256, b"", b"y" * 15, b"z" * 16, "\ud800"),
    *(-101, -100, -1, 0, 100, 101, MOST, MOST + 1, -MOST, -MOST - 1),
    *(-0.5, 0.0, 0.5, LATEST, LATEST + 1, float("inf"), float("-inf"), float("nan")),
)


@pytest.mark.parametrize("name", CHECKED)
def test_a_task_is_sound_when_each_of_its_fields_is(name: str) -> None:
    assert is_sound(SOUND)
    for value in VALUES:
        assert is_sound(SOUND._replace(**{name: value})) is _FIELDS[name].bears(value), value

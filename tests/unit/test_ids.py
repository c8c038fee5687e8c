"""Ids of tasks: UUIDs of version 7, which sort by the millisecond of the call."""

from __future__ import annotations

from uuid import RFC_4122, UUID

from hypothesis import given
from hypothesis import strategies as st

from sitq.calls import new_ids


@given(st.floats(0, 2.5e11), st.integers(0, 50))
def test_ids_are_uuids_of_version_7(now: float, number: int) -> None:
    ids = [UUID(bytes=id) for id in new_ids(now, number)]
    assert len(set(ids)) == number
    assert all((id.version, id.variant) == (7, RFC_4122) for id in ids)
    assert all(id.int >> 80 == int(now * 1000) for id in ids)


def test_every_other_bit_is_random() -> None:
    ids = [UUID(bytes=id).int for id in new_ids(0.0, 2_000)]
    ever, always = 0, (1 << 128) - 1
    for id in ids:
        ever, always = ever | id, always & id
    fixed = (0xFFFF_FFFF_FFFF << 80) | (0xF << 76) | (0x3 << 62)
    assert ever ^ always == ((1 << 128) - 1) & ~fixed

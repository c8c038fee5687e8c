"""The server crashes under load, or workers do: nothing is lost, and nothing settles twice."""

from __future__ import annotations

from ...postgres import server_url
from .crash import crashed, killed
from .server import own_server


def test_a_server_that_crashes_loses_nothing() -> None:
    with own_server() as server:
        crashed(server, 3, seed=7).check(once=True)


def test_workers_that_are_killed_lose_nothing(schema: str) -> None:
    killed(server_url(), schema, 12, seed=7).check(once=False)

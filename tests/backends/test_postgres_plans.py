"""Every hot query walks an index, also where the planner knows nothing, or is left to itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from sitq.backends.postgres.connect import Server
from sitq.backends.postgres.migrate import prepared
from sitq.backends.postgres.queries import queries

from ..postgres import fresh_schema, server_url

ROWS = 30_000
VALUES: dict[str, Any] = {
    "now": None,
    "monotonic": None,
    "queues": "{default,mail}",
    "below": 101,
    "limit": 100,
    "suspect": True,
    "skip": "{}",
    "largest": 1_000_000,
    "worker": 7,
    "batch": 1,
    "floor_queues": "{default}",
    "floor_times": "{0}",
    "floor_seqs": "{0}",
    "priority": 0,
    "lost": "{1,2}",
    "id": "0" * 31 + "1",
    "ids": "{" + "0" * 31 + "1}",
    "seqs": "{1,2}",
    "fences": "{1,1}",
    "states": "{2,2}",
    "run_at": "{0,0}",
    "attempts": "{0,0}",
    "crashes": "{0,0}",
    "epochs": "{0,0}",
    "unknown": "{NULL,NULL}",
    "values": "{NULL,NULL}",
    "errors": "{NULL,NULL}",
    "keep": "{false,false}",
    "is_sweep": False,
    "state": 1,
    "seq": 5,
    "group": 3,
    "parent": 4,
    "after": 0,
    "generation": 0,
    "children": "{a,b}",
    "keys": "{k,l}",
    "numbers": "{1,2}",
    "unknown_after": 60.0,
    "names": "{x}",
    "name": None,
    "queue": None,
    "key": None,
    "done": "{1,2}",
    "totals": "{NULL,2}",
    "notes": '{"",""}',
    "times": "{0,0}",
}
HOT = [
    *(
        "reserve",
        "reserve_all",
        "reserve_from",
        "reserved",
        "share_its_parent",
        "settle_plain",
        "settle_all",
        "families",
        "settled",
    ),
    *("lock_groups", "cancelled", "taken", "state_of", "get", "prune", "ended_among", "held_by"),
    *("owners_without_lease", "expired", "forgotten", "key_holders", "children"),
    *(
        "arguments",
        "queues",
        "workers",
        "find",
        "find_running",
        "tree",
        "progress",
        "prune_progress",
    ),
    *("ended_children", "has_live_children", "live_children", "live_below", "cancel_all"),
]


RARE = ["clear_known"]
"""Where the planner needs figures, which autovacuum brings."""


@pytest.fixture(scope="module", params=["ours", "left to itself"])
def filled(request: pytest.FixtureRequest) -> Iterator[tuple[psycopg.Connection[Any], str]]:
    """A connection, as ours or as a pooler gives it, and a schema of many rows without figures."""
    with fresh_schema() as schema:
        poll = None if request.param == "ours" else 0.1
        server = Server(server_url(), schema, 30.0, poll)
        with server.connect() as connection:
            prepared(connection, server)
            connection.execute(f"ALTER TABLE {schema}.task SET (autovacuum_enabled = false)")
            connection.execute(
                f"INSERT INTO {schema}.task (id, name, queue, state, priority, run_at, enqueued, "
                "change, ended) SELECT gen_random_uuid(), 'x', 'default', n % 2 * 2, 0, now(), "
                "now(), CASE WHEN n % 2 = 1 THEN n END, CASE WHEN n % 2 = 1 THEN now() END "
                f"FROM generate_series(1, {ROWS}) n"
            )
            connection.execute(
                f"INSERT INTO {schema}.progress (seq, fence, done, note, at) "
                f"SELECT seq, 0, 0, '', now() FROM {schema}.task"
            )
            if poll is not None:
                connection.execute(f"ANALYZE {schema}.task, {schema}.progress")
            yield connection, schema


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


@pytest.mark.parametrize("name", [*HOT, *RARE])
def test_it_walks_an_index(filled: tuple[psycopg.Connection[Any], str], name: str) -> None:
    connection, schema = filled
    if name in RARE:
        connection.execute(f"ANALYZE {schema}.task")
    query: Any = "EXPLAIN (ANALYZE, FORMAT JSON) " + queries(schema)[name]
    with connection.transaction(force_rollback=True):
        [[[found]]] = connection.execute(query, VALUES).fetchall()
    assert json.dumps(found)
    for node in nodes(found["Plan"]):
        if node.get("Relation Name") in ("task", "progress"):
            assert node["Node Type"] != "Seq Scan", node
            read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            assert read * node["Actual Loops"] <= 1_000, node

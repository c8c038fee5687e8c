"""What a stranger may write into the tables: each kind of damage, and what is to become of it."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from sqlite3 import Connection
from typing import Any, NamedTuple

import msgpack

__all__ = ["KINDS", "SMALL", "WORKERS", "Kind", "damage"]


class Kind(NamedTuple):
    """One way to damage the row of a task.

    Args:
        what: names it.
        state: what the row is before: ``pending``, ``running`` (held by a worker without a row), or
            how it ended.
        sets: the columns that are set, to SQL expressions with one placeholder at the most.
        value: is bound to the placeholder.
        left: whether the row stays as it is, because it can never be reserved.
        function: that the task calls.
    """

    what: str
    state: str
    sets: str
    value: Any = None
    left: bool = False
    function: str = "echo"
    big: tuple[int, str] | None = None
    """The part and the body, in SQL, that stand aside."""


def _nested(head: bytes, levels: int) -> bytes:
    return head * levels + b"\xc0"


def _many(item: bytes, count: int) -> bytes:
    return b"\xdd" + struct.pack(">I", count) + item * count


BOMB = 10 << 20
BYTES: dict[str, bytes] = {
    "empty": b"",
    "truncated": b"\x92\x91\x01",
    "trailing": b"\x92\x91\x01\x80\xc0",
    "0xc1": b"\xc1",
    "bad UTF-8": b"\x92\x91\xa1\xff\x80",
    "unknown ext": msgpack.packb([[msgpack.ExtType(99, b"x")], {}]),
    "depth 2,000": _nested(b"\x91", 2_000),
    "depth 2,000 of maps": _nested(b"\x81\xc0", 2_000),
    "false list": b"\xdd\xff\xff\xff\xff",
    "false map": b"\xdf\xff\xff\xff\xff",
    "false text": b"\xdb\xff\xff\xff\xff",
    "false bytes": b"\xc6\xff\xff\xff\xff",
    "false ext": b"\xc9\xff\xff\xff\xff\x01",
    "nested false lists": b"\xdd\x00\x0f\x00\x00" * 500,
    "doubled keys": b"\x92\x90\x82\xa1a\x01\xa1a\x02",
    "timestamp": b"\xc7\x0c\xff" + b"\xff" * 12,
    "other shape": msgpack.packb([1, 2, 3]),
    "names": msgpack.packb([["os.system", "builtins.eval", "__import__", "../x"], {"self": 1}]),
    "a million nulls": _many(b"\xc0", 1_000_000),
}
BOMBS: list[tuple[str, bytes]] = [
    ("10 MB of empty maps", _many(b"\x80", BOMB)),
    ("10 MB of empty lists", _many(b"\x90", BOMB)),
    ("10 MB of nulls", _many(b"\xc0", BOMB)),
]
BIG: dict[str, str] = {
    "none of its bytes": "x'c1'",
    "32 MB": "zeroblob(33554432)",
    "text": "'text'",
    "10 MB of text": "hex(zeroblob(5242880))",
    "a number": "5",
}
POLICY = (3, 0.0, 1.0, 1.0, False, None, ())
POLICIES: dict[str, bytes] = {
    f"policy {n}": msgpack.packb(policy)
    for n, policy in enumerate(
        [
            (0, *POLICY[1:]),
            (2**63, *POLICY[1:]),
            (3, math.nan, *POLICY[2:]),
            (3, -1.0, *POLICY[2:]),
            (3, 0.0, math.inf, 1.0, False, None, ()),
            (3, 0.0, 1.0, math.inf, False, None, ()),
            (*POLICY[:4], 1, None, ()),
            (*POLICY[:5], 5, ()),
            (*POLICY[:5], [["os.system"]], ()),
            (*POLICY[:5], [b"ValueError"], ()),
            (*POLICY[:5], None, ["\ud800".encode("utf-8", "surrogatepass")]),
            (*POLICY[:5], None, None),
            POLICY[:6],
            (*POLICY, 1),
        ]
    )
}
INTEGERS = ("fence", "attempts", "crashes", "epoch", "priority", "cancel")
TIMES = ("run_at", "timeout", "deadline", "unknown_since", "enqueued", "started")
ODD: dict[str, Any] = {
    "text": "text",
    "bytes": b"\xff\x00",
    "1.5": 1.5,
    "inf": math.inf,
    "-inf": -math.inf,
    "1e300": 1e300,
    "-1": -1,
    "2^63-1": 2**63 - 1,
    "-2^63": -(2**63),
}
TEXTS: dict[str, tuple[str, Any]] = {
    "bytes": ("?", b"echo"),
    "bad UTF-8": ("CAST(? AS TEXT)", b"ec\xffho"),
    "surrogate": ("CAST(? AS TEXT)", b"\xed\xa0\x80"),
    "NUL": ("?", "echo\0"),
    "1 MB": ("?", "n" * 1_000_000),
    "os.system": ("?", "os.system"),
    "builtins.eval": ("?", "builtins.eval"),
    "__import__": ("?", "__import__"),
    "../x": ("?", "../x"),
    "lines": ("?", "a\r\nb\x1b[0m"),
}
NEVER: dict[str, tuple[str, ...]] = {
    "run_at": ("text", "bytes", "inf", "1e300", "2^63-1"),
    "priority": ("text", "bytes", "1.5", "inf", "-inf", "1e300"),
    "crashes": ("-inf", "-1", "-2^63"),
    "queue": ("bad UTF-8", "surrogate"),
}
"""What makes it impossible that a task is reserved."""
STATES: dict[str, Any] = {"5": 5, "-1": -1, "1.5": 1.5, "text": "text", "bytes": b"\x00", "99": 99}


def _bodies() -> Iterator[Kind]:
    for part, (column, state) in enumerate(
        (("arguments", "pending"), ("value", "succeeded"), ("error", "failed"))
    ):
        for what, data in BYTES.items():
            yield Kind(f"{column}: {what}", state, f"{column} = ?", data)
        for what, odd in {"text": "text", "a number": 5, "1.5": 1.5, "NULL": None}.items():
            yield Kind(f"{column}: {what}", state, f"{column} = ?", odd)
        yield Kind(f"{column}: {BOMBS[part][0]}", state, f"{column} = ?", BOMBS[part][1])
        for what, body in BIG.items():
            yield Kind(f"big {column}: {what}", state, f"{column} = NULL", big=(part, body))
    for what, data in {**BYTES, BOMBS[0][0]: BOMBS[0][1], **POLICIES}.items():
        yield Kind(f"retry: {what}", "pending", "retry = ?", data, function="fails")
    yield Kind("retry: text", "pending", "retry = 'text'", function="fails")


def _types() -> Iterator[Kind]:
    for state in ("pending", "running", "failed", "cancelled"):
        for column in (*INTEGERS, *TIMES):
            for what, odd in ODD.items():
                left = state == "pending" and what in NEVER.get(column, ())
                yield Kind(f"{state} {column}: {what}", state, f"{column} = ?", odd, left)
        for column in ("name", "queue", "key"):
            for what, (sql, text) in TEXTS.items():
                end: Any = "" if column != "key" else state  # keys are unique
                end = end.encode() if isinstance(text, bytes) else end
                left = state == "pending" and what in NEVER.get(column, ())
                yield Kind(
                    f"{state} {column}: {what}", state, f"{column} = {sql}", text + end, left
                )
        own = state.encode()
        for what, id in {"short": own, "text": state.ljust(16), "1 MB": own * 100_000}.items():
            yield Kind(f"{state} id: {what}", state, "id = ?", id)


def _shapes() -> Iterator[Kind]:
    for what, number in STATES.items():
        for state in ("pending", "running", "succeeded"):
            yield Kind(f"{state} became {what}", state, "state = ?", number)
    yield Kind("name: empty", "pending", "name = ''")
    yield Kind("queue: empty", "pending", "queue = ''")
    yield Kind("key: empty", "pending", "key = ''")
    yield Kind("pending with a worker", "pending", "worker = 77")
    yield Kind("pending and expired with a worker", "pending", "worker = 77, deadline = 1")
    yield Kind("pending with an end", "pending", "ended = 5, change = 2")
    yield Kind("pending and cancelled", "pending", "cancel = 1")
    yield Kind("running for nobody", "running", "worker = NULL")
    for what, worker in {
        "text": "text",
        "bytes": b"x",
        "2^63-1": 2**63 - 1,
        "inf": math.inf,
    }.items():
        yield Kind(f"running for {what}", "running", "worker = ?", worker)
    for worker in WORKERS:
        yield Kind(f"running for worker {worker}", "running", "worker = ?", worker)
    for what, odd in (ODD | {"NULL": None}).items():
        yield Kind(f"ended: {what}", "failed", "ended = ?", odd)
        yield Kind(f"change: {what}", "failed", "change = ?", odd)
    yield Kind("unknown and forgotten", "pending", "unknown_since = 1, name = 'eval'")
    yield Kind("expired and damaged", "pending", "deadline = 1, attempts = 'text'")
    yield Kind("expired with a bad priority", "pending", "deadline = 1, priority = 999")


WORKERS: dict[int, str] = {
    # id: lease, beat, boot, suspect, suspect_boot
    101: "'text', 0, 'x', NULL, NULL",
    102: "x'00', 0, 'x', NULL, NULL",
    103: "-1, 0, 'x', NULL, NULL",
    104: "0.3, 'text', 'x', NULL, NULL",
    105: "0.3, x'00', x'00', NULL, NULL",
    106: "0.3, 0, 'x', 'text', 'x'",
    107: "0.3, 0, CAST(x'ff' AS TEXT), x'00', x'00'",
}
"""Rows of workers, by id; some of the tasks are held by them."""

KINDS: list[Kind] = [*_bodies(), *_types(), *_shapes()]
SMALL: list[Kind] = [kind for kind in KINDS if "MB" not in kind.what]
_BECOMES = {
    "pending": "state = 0",
    "running": "state = 1, worker = 77, started = 5",
    "succeeded": "state = 2, change = 1, ended = 5, started = 5, value = x'c0'",
    "failed": "state = 3, change = 1, ended = 5, started = 5, error = x'c0'",
    "cancelled": "state = 4, change = 1, ended = 5, cancel = 1",
}


def damage(connection: Connection, seq: int, kind: Kind) -> None:
    """Bring a pending row into the state of the kind, and damage it."""
    connection.execute(f"UPDATE sitq_task SET {_BECOMES[kind.state]} WHERE seq = ?", (seq,))
    if kind.big is not None:
        part, body = kind.big
        connection.execute(f"INSERT INTO sitq_big VALUES ({seq}, {part}, {body})")
    values = (kind.value,) if "?" in kind.sets else ()
    connection.execute(f"UPDATE sitq_task SET {kind.sets} WHERE seq = ?", (*values, seq))

"""The life of every task as the triggers in the database saw it, checked move by move.

`MOVES` says once more, apart from sitq, what may become of a task and which figures may grow with
it: it is the oracle.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .functions import ATTEMPTS
from .journal import Entry
from .roles import CRASH_LIMIT

PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLED = range(5)
TERMINAL = (SUCCEEDED, FAILED, CANCELLED)
TOKEN = re.compile(rb"<[\w.]+>")

MOVES: Mapping[tuple[int, ...], str] = {
    # The state before and after, then the growth of fence, attempts, crashes and epoch.
    (PENDING, RUNNING, 1, 0, 0, 0): "reserved",
    (PENDING, CANCELLED, 0, 0, 0, 0): "cancelled",
    (RUNNING, SUCCEEDED, 0, 0, 0, 0): "succeeded",
    (RUNNING, PENDING, 0, 1, 0, 1): "retried",
    (RUNNING, FAILED, 0, 1, 0, 0): "failed",
    (RUNNING, PENDING, 0, 0, 0, 0): "released",
    (RUNNING, PENDING, 0, 0, 1, 0): "crashed",
    (RUNNING, FAILED, 0, 0, 1, 0): "crashed",
    (RUNNING, CANCELLED, 0, 0, 1, 0): "crashed",
    (RUNNING, CANCELLED, 0, 0, 0, 0): "cancelled",
    (RUNNING, CANCELLED, 0, 1, 0, 0): "cancelled",
    (FAILED, PENDING, 1, 0, 0, 1): "revived",
    (CANCELLED, PENDING, 1, 0, 0, 1): "revived",
    (PENDING, PENDING, 0, 0, 0, 0): "marked",
    (RUNNING, RUNNING, 0, 0, 0, 0): "marked",
}


class Left(NamedTuple):
    """How a reservation ended in the store."""

    move: str
    entry: Entry


class Histories:
    """What became of each task, from the changes in the order of their commits."""

    def __init__(self, changes: Iterable[Entry]) -> None:
        self.violations: list[str] = []
        self.moves: Counter[str] = Counter()
        self.settled_twice = 0
        self.workers_lost = 0
        """Tasks that failed because so many workers died under them."""
        self.last: dict[int, Entry] = {}
        """The latest change of each row."""
        self.pruned: set[int] = set()
        self.seqs: dict[bytes, int] = {}
        """The row of each id."""
        self.first: dict[int, Entry] = {}
        """How each row was stored."""
        self.tokens: dict[str, list[int]] = defaultdict(list)
        """The rows of each token, in the order of their enqueues."""
        self.reserved: dict[tuple[int, int], Entry] = {}
        """By row and fence."""
        self.left: dict[tuple[int, int], Left] = {}
        """By row and fence."""
        self._keys: dict[str, int] = {}
        for entry in changes:
            getattr(self, f"_{entry.event}")(entry)

    def _stored(self, entry: Entry) -> None:
        self.last[entry.seq] = entry
        self.first[entry.seq] = entry
        self.seqs[entry.id] = entry.seq
        self._body(entry)
        self._take_key(entry)
        if (entry.state, entry.fence, entry.attempts, entry.crashes) != (PENDING, 0, 0, 0):
            self.violations.append(f"stored in a strange state: {entry}")

    def _body(self, entry: Entry) -> None:
        found = TOKEN.search(entry.arguments or b"")
        if found is not None:
            self.tokens[found[0].decode()].append(entry.seq)

    def _changed(self, entry: Entry) -> None:
        before = self.last[entry.seq]
        self.last[entry.seq] = entry
        move = _move(before, entry)
        if move is None:
            self.settled_twice += before.state in TERMINAL and entry.state in TERMINAL
            self.violations.append(f"no such move: {before} became {entry}")
            return
        self.moves[move] += 1
        self.violations += _broken_limits(before, entry, move)
        self.workers_lost += (move, entry.state) == ("crashed", FAILED)
        if before.state == RUNNING and move != "marked":
            self.left[entry.seq, entry.fence] = Left(move, entry)
        if move == "reserved":
            self.reserved[entry.seq, entry.fence] = entry
        if move == "revived":
            self._take_key(entry)
        if entry.state in TERMINAL:
            self._keys.pop(entry.key or "", None)

    def _pruned(self, entry: Entry) -> None:
        before = self.last[entry.seq]
        if before.state not in TERMINAL:
            self.violations.append(f"deleted before its end: {before}")
        elif not entry.whole:
            self.violations.append(f"ended without its result: {before}")
        self.pruned.add(entry.seq)
        self.moves["pruned"] += 1

    def _take_key(self, entry: Entry) -> None:
        if entry.key is not None:
            other = self._keys.setdefault(entry.key, entry.seq)
            if other != entry.seq:
                self.violations.append(f"two live tasks with one key: {other} and {entry}")


def _move(before: Entry, after: Entry) -> str | None:
    attempts, crashes = after.attempts - before.attempts, after.crashes - before.crashes
    if after.state == SUCCEEDED and after.crashes == 0:
        crashes = 0  # a success forgets them
    if before.state in TERMINAL and after.attempts == after.crashes == 0:
        attempts = crashes = 0  # a revived task begins anew
    growth = (after.fence - before.fence, attempts, crashes, after.epoch - before.epoch)
    return MOVES.get((before.state, after.state, *growth))


def _broken_limits(before: Entry, after: Entry, move: str) -> Iterable[str]:
    if after.attempts > ATTEMPTS or after.crashes > CRASH_LIMIT:
        yield f"beyond its limit: {after}"
    if before.state == RUNNING and before.cancel and after.state == PENDING:
        yield f"to be cancelled, but to run again: {after}"
    if move == "reserved" and not after.leased:
        yield f"reserved by a worker that has no lease: {after}"
    if move == "crashed" and (after.state == FAILED) != (
        after.crashes == CRASH_LIMIT and after.state != CANCELLED
    ):
        yield f"failed before its limit of crashes, or not at it: {after}"

"""The verbs of the backend that write, each on a `Stage`."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from sitq.backends.base import Filter, Sweep, Wanted
from sitq.model import NewGroup

from ..stage import RECORD
from .stage import Stage

__all__ = ["MAYBE", "PLAIN_READS", "WRITES", "Start"]

Start = Callable[[Stage], Coroutine[Any, Any, Any]]

RULES = Sweep(3, 300.0, known=("add",), unknown=("echo",))
QUEUES = ("pending", "crashed", "kid", "own")

WRITES: Mapping[str, Start] = {
    "insert": lambda s: s.backend.insert([s.new()]),
    "insert many": lambda s: s.backend.insert([s.new(), s.new(size=2_000), s.new(size=3)]),
    "insert keyed": lambda s: s.backend.insert([s.new(key="b"), s.new(key="a", size=2_000)]),
    "insert mixed": lambda s: s.backend.insert([s.new(), s.new(key="a", size=2), s.new(size=3)]),
    "insert same key": lambda s: s.backend.insert([s.new(key="a"), s.new(key="a", size=2)]),
    "hire": lambda s: s.backend.hire(RECORD._replace(pid=77)),
    "dismiss": lambda s: s.backend.dismiss(s.template.idle),
    "reserve": lambda s: s.backend.reserve(
        s.template.worker, Wanted(10, QUEUES), s.delivered.extend
    ),
    "reserve all": lambda s: s.backend.reserve(
        s.template.worker, Wanted(2, None), s.delivered.extend
    ),
    "settle": lambda s: s.backend.settle(
        s.template.worker, [s.done(s.template.running)], s.settled.update
    ),
    "settle child": lambda s: s.backend.settle(
        s.template.worker, [s.done(s.template.child)], s.settled.update
    ),
    "settle both": lambda s: s.backend.settle(
        s.template.worker, s.done(s.template.running, s.template.child), s.settled.update
    ),
    "release": lambda s: s.backend.settle(
        s.template.worker, [s.back(s.template.running)], s.settled.update
    ),
    "progress": lambda s: s.backend.progress(s.template.worker, [s.told(s.template.running)]),
    "recover": lambda s: s.backend.recover(s.template.worker, RULES),
    "cancel": lambda s: s.backend.cancel(s.template.ids["pending"].bytes),
    "cancel running": lambda s: s.backend.cancel(s.template.ids["running"].bytes),
    "revive": lambda s: s.backend.revive(s.template.ids["failed"].bytes),
    "prune": lambda s: s.backend.prune(Filter(), ended_before=math.inf, limit=1),
    "open group": lambda s: s.backend.open_group(
        NewGroup(s.template.running.seq, s.template.running.fence, ordinal=0)
    ),
    "open group again": lambda s: s.backend.open_group(
        NewGroup(s.template.group.parent, s.template.group.fence, epoch=1, ordinal=0)
    ),
    "insert children": lambda s: s.backend.insert_children(
        s.template.group, [s.child("kid"), s.child("b"), s.child("a", "a")]
    ),
    "insert own children": lambda s: s.backend.insert_children(
        s.template.own, [s.child("b", "a"), s.child("a", "b")]
    ),
    "cancel group": lambda s: s.backend.cancel_group(s.template.group),
    "close group": lambda s: s.backend.close_group(s.template.own, dismiss=True),
}

MAYBE = ("cancel", "cancel running", "revive", "prune", "cancel group", "close group")
"""Those that say, where their answer is lost, that they may have been done."""

PLAIN_READS: Mapping[str, Start] = {
    "cancelled": lambda s: s.backend.cancelled(s.template.worker),
    "get": lambda s: s.backend.get(s.template.ids["succeeded"].bytes),
    "find": lambda s: s.backend.find(Filter(), after=0, limit=10),
    "counts": lambda s: s.backend.counts(),
    "ended": lambda s: s.backend.ended(s.template.ids["succeeded"].bytes),
    "workers": lambda s: s.backend.workers(),
    "tree": lambda s: s.backend.tree(s.template.ids["parent"].bytes, 10),
}

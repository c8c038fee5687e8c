"""The awaitables of queue, handle and backend, each on a `Stage`."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from sitq import State
from sitq.backends.base import Filter, Sweep, Wanted

from ..worker import functions as f
from .stage import RECORD, VALUE, Stage

__all__ = ["READS", "WAITS", "WRITES", "WRITES_OF_QUEUE", "Start"]

Start = Callable[[Stage], Coroutine[Any, Any, Any]]

RULES = Sweep(3, 300.0, known=("add",), unknown=("echo",))
CALLS = [f.echo.call("x" * size) for size in (1, 2_000, 3)]

WRITES: Mapping[str, Start] = {
    "insert": lambda s: s.backend.insert([s.new(), s.new(size=2_000), s.new()]),
    "insert-keyed": lambda s: s.backend.insert([s.new(key="a"), s.new(key="b", size=2_000)]),
    "hire": lambda s: s.backend.hire(RECORD),
    "dismiss": lambda s: s.backend.dismiss(s.template.idle),
    "reserve": lambda s: s.backend.reserve(s.template.worker, Wanted(10, None), s.delivered.extend),
    "settle": lambda s: s.backend.settle(s.template.worker, [s.done(s.template.running)]),
    "progress": lambda s: s.backend.progress(s.template.worker, [s.told(s.template.running)]),
    "recover": lambda s: s.backend.recover(s.template.worker, RULES),
    "cancel": lambda s: s.backend.cancel(s.template.ids["pending"].bytes),
    "revive": lambda s: s.backend.revive(s.template.ids["failed"].bytes),
    "prune": lambda s: s.backend.prune(Filter(), ended_before=math.inf, limit=1),
}

WRITES_OF_QUEUE: Mapping[str, Start] = {
    "queue.enqueue": lambda s: s.queue.enqueue(f.echo, 1),
    "queue.enqueue-keyed": lambda s: s.queue.enqueue(f.echo.using(key="a"), 1),
    "queue.enqueue_many": lambda s: s.queue.enqueue_many(CALLS),
    "queue.cancel": lambda s: s.queue.cancel(s.template.ids["running"]),
    "queue.retry": lambda s: s.queue.retry(s.template.ids["failed"]),
    "queue.purge": lambda s: s.queue.purge(state=State.FAILED),
    "handle.cancel": lambda s: s.handle("pending").cancel(),
}

READS: Mapping[str, Start] = {
    "cancelled": lambda s: s.backend.cancelled(s.template.worker),
    "get": lambda s: s.backend.get(s.template.ids["succeeded"].bytes),
    "find": lambda s: s.backend.find(Filter(), after=0, limit=10),
    "counts": lambda s: s.backend.counts(),
    "queues": lambda s: s.backend.queues(),
    "arguments": lambda s: s.backend.arguments(s.template.ids["pending"].bytes),
    "ended": lambda s: s.backend.ended(s.template.ids["succeeded"].bytes),
    "queue.get_result": lambda s: s.queue.get_result(s.template.ids["succeeded"]),
    "queue.get_result-wait": lambda s: s.queue.get_result(s.template.ids["failed"], 60),
    "queue.get": lambda s: s.queue.get(s.template.ids["asked"]),
    "queue.find": lambda s: s.queue.find(state=State.RUNNING),
    "workers": lambda s: s.backend.workers(),
    "queue.workers": lambda s: s.queue.workers(),
    "queue.counts": lambda s: s.queue.counts("pending"),
    "handle.result": lambda s: s.handle("succeeded").result(),
    "handle.result-timeout": lambda s: s.handle("succeeded").result(60),
    "handle.result-overdue": lambda s: s.handle("running").result(0.001),
    "queue.get_result-overdue": lambda s: s.queue.get_result(s.template.ids["asked"], 0.001),
    "handle.get": lambda s: s.handle("pending").get(),
    "handle.status": lambda s: s.handle("crashed").status(),
}

WAITS: Mapping[str, tuple[Start, Any]] = {
    "ended": (
        lambda s: s.backend.ended(s.template.ids["running"].bytes),
        (2, State.SUCCEEDED),
    ),
    "changed": (lambda s: s.backend.changed(s.backend.token()), None),
    "queue.get_result": (
        lambda s: s.queue.get_result(s.template.ids["running"], 60),
        (State.SUCCEEDED, VALUE),
    ),
    "handle.result": (lambda s: s.handle("running").result(), VALUE),
    "handle.result-timeout": (lambda s: s.handle("running").result(60), VALUE),
}
"""Those that wait for `Stage.settle_running`, and what they answer then."""

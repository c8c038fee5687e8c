"""The store as one worker or caller reaches it: the way there can be cut, blocked, or lossy."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from sitq import SQLiteBackend
from sitq.errors import StoreUnavailable, StoreUnusable
from sitq.model import Change, NewTask, State

__all__ = ["Batch", "Line"]

VERBS = frozenset(
    (
        *("insert", "hire", "dismiss", "workers", "reserve", "settle", "cancelled", "recover"),
        *("cancel", "revive", "get", "find", "counts", "prune", "ended", "changed"),
        *("open_group", "insert_children", "cancel_group", "ended_children", "tree"),
        "progress",
    )
)
SILENT = frozenset(("changed", "ended", "ended_children"))
"""They wait; the trace tells of what they waited for."""


@dataclass
class Batch:
    """What was enqueued at once, and what came back: None if no answer came."""

    tasks: list[NewTask]
    answer: list[bytes] | None = None


class Line:
    """A backend like the one behind it, but for what happens on the way.

    Args:
        backend: the store.
        name: who uses the line.
        note: writes to the trace.
        rng: decides what gets lost.
    """

    def __init__(
        self,
        backend: SQLiteBackend,
        name: str,
        note: Callable[..., None],
        rng: random.Random,
    ) -> None:
        self._backend = backend
        self._note = note
        self._rng = rng
        self.name = name
        self.is_cut = False
        self.loss = 0.0
        """How probable it is that a question or an answer gets lost."""
        self._blocked_until = 0.0
        self._troubles: list[tuple[float, float]] = []
        self.given: list[int] = []
        """Ids that the worker got which uses the line."""
        self.heard: list[int] = []
        """Those of them that it heard of: an answer may be lost."""
        self.dismissed: set[int] = set()
        self.batches: list[Batch] = []
        self.settles: set[tuple[int, int, int]] = set()
        """Worker, task and fence of what was to be settled."""
        self.settled: set[tuple[int, int, int]] = set()
        """And of what was."""
        self.delays: list[float] = []
        """For how long tasks were put off that are to be tried again."""

    def __getattr__(self, name: str) -> Any:
        if name in VERBS:
            return partial(self._ask, name)
        return getattr(self._backend, name)

    async def __aenter__(self) -> Line:
        await self._backend.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._backend.close()

    def cut(self) -> None:
        """From now on nothing gets through."""
        self._note(self.name, "is cut off")
        self.is_cut = True
        self._troubles.append((trio.current_time(), float("inf")))

    def block(self, seconds: float) -> None:
        """Nothing gets through for so long; then everything does."""
        self._note(self.name, "is blocked for", f"{seconds:.3f}")
        self._blocked_until = trio.current_time() + seconds
        self._troubles.append((trio.current_time(), self._blocked_until))

    async def lose(self, share: float, seconds: float) -> None:
        """For so long a share of what is said gets lost."""
        self._note(self.name, "loses", f"{share:.2f} for {seconds:.3f}")
        self.loss = share
        self._troubles.append((trio.current_time(), trio.current_time() + seconds))
        await trio.sleep(seconds)
        self.loss = 0.0

    def was_troubled(self, since: float, until: float) -> bool:
        """Whether there was anything wrong with the line at some moment between these."""
        return any(begin <= until and end >= since for begin, end in self._troubles)

    async def insert(self, tasks: list[NewTask]) -> list[bytes]:
        batch = Batch(tasks)
        self.batches.append(batch)
        batch.answer = await self._ask("insert", tasks)
        return batch.answer

    async def dismiss(self, worker: int) -> None:
        self.dismissed.add(worker)
        await self._ask("dismiss", worker)

    async def settle(
        self, worker: int, changes: list[Change], deliver: Callable[[set[int]], None]
    ) -> set[int]:
        now = self._backend.clock.time()
        for change in changes:
            self.settles.add((worker, change.seq, change.fence))
            if change.state is State.PENDING and change.error is not None:
                self.delays.append(change.run_at - now)

        def receive(seqs: set[int]) -> None:
            self.settled |= {(worker, *change[:2]) for change in changes if change.seq in seqs}
            deliver(seqs)

        return await self._ask("settle", worker, changes, receive)

    async def _ask(self, verb: str, *args: Any, **options: Any) -> Any:
        await self._get_through()
        lost = self.loss > 0 and self._rng.random() < self.loss
        if lost and self._rng.random() < 0.5:
            self._note(self.name, verb, "is lost")
            raise StoreUnavailable("the question was lost")
        answer = await getattr(self._backend, verb)(
            *self._with_way_back(verb, args, lost), **options
        )
        if verb == "hire":
            self.given.append(answer)
        await self._get_through()
        if lost:
            self._note(self.name, verb, "is not answered")
            raise StoreUnavailable("the answer was lost")
        if verb == "hire":
            self.heard.append(answer)
        if verb not in SILENT:
            self._note(self.name, verb, _brief(verb, args, answer))
        return answer

    def _with_way_back(self, verb: str, args: tuple[Any, ...], lost: bool) -> tuple[Any, ...]:
        """What is delivered comes through the line too."""
        if verb not in ("reserve", "settle"):
            return args
        *first, deliver = args

        def receive(answer: Any) -> None:
            # What is reserved must reach who lives, or it would have an owner who does not know.
            if not self.is_cut and not (lost and verb == "settle"):
                deliver(answer)

        return (*first, receive)

    async def _get_through(self) -> None:
        now = trio.current_time()
        if not self.is_cut and self._blocked_until > now:
            await trio.sleep_until(self._blocked_until)
        if self.is_cut:
            raise StoreUnusable("cut off")


def _brief(verb: str, args: tuple[Any, ...], answer: Any) -> str:
    """What the trace tells of an answer."""
    if verb == "insert":
        return " ".join(id.hex()[-4:] for id in answer)
    if verb == "insert_children":
        return f"group {args[0].id}: " + " ".join(id.hex()[-4:] for id in answer)
    if verb == "settle":
        return " ".join(f"{change.seq}.{change.fence}" for change in args[1]) + f" -> {answer}"
    if verb == "recover":
        return f"{answer.lease_held} crashed {len(answer.crashed)} ended {len(answer.settled)}"
    if isinstance(answer, (int, str, set, type(None))):
        return str(answer)
    return ""

"""A world in which nothing is left to chance: the store runs on the loop, and time is virtual."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import anyio
import trio

import sitq.worker
from sitq import Clock, SQLiteBackend
from sitq.backends.base import Recovered, Sweep, Wanted
from sitq.backends.sqlite import opened
from sitq.backends.sqlite.driver import Driver
from sitq.errors import StoreUnavailable
from sitq.lifecycle import TERMINAL
from sitq.model import Change, Reservation, State
from sitq.worker.shift import Shift

EPOCH = 1_700_000_000.0


class LoopClock(Clock):
    """The clock of the loop; the wall clock beside it can jump."""

    def __init__(self) -> None:
        self.jumped = 0.0

    def time(self) -> float:
        return EPOCH + self.jumped + trio.current_time()

    def monotonic(self) -> float:
        return trio.current_time()


class LoopDriver(Driver):
    """Does the work of the store on the loop itself, one job after the other."""

    stalled_until = 0.0
    """Until when the store stands still, for everybody."""

    def _open_thread(self) -> None:
        send, receive = trio.open_memory_channel[Callable[[], Any] | None](100_000)
        self._put = send.send_nowait
        trio.lowlevel.spawn_system_task(self._work, receive)

    async def _work(self, jobs: trio.MemoryReceiveChannel[Callable[[], Any] | None]) -> None:
        async for job in jobs:
            if job is None:
                return
            await trio.sleep_until(LoopDriver.stalled_until)
            job()


class Journal:
    """What happened, in order, and the rules that hold at each step."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lines: list[str] = []
        self.fences: dict[int, int] = {}
        self.held: dict[tuple[int, int], tuple[Line, Reservation]] = {}
        self.ends: dict[int, int] = {}
        self.broken: list[str] = []

    def note(self, *what: object) -> None:
        self.lines.append(" ".join(map(str, (f"{trio.current_time():.6f}", *what))))

    def demand(self, holds: bool, broken: str) -> None:
        """Remember a broken promise: a worker would outlast an error that was raised in it."""
        if not holds:
            self.note(broken)
            self.broken.append(broken)

    def reserved(self, line: Line, tasks: Sequence[Reservation]) -> None:
        for task in tasks:
            self.note(line, "reserved", task.seq, task.fence)
            self.demand(task.fence > self.fences.get(task.seq, 0), "the fence did not grow")
            self.demand(task.run_at <= self.clock.time(), "a delayed task came early")
            self.fences[task.seq] = task.fence
            self.held[task.seq, task.fence] = line, task

    def settled(self, line: Line, changes: Sequence[Change], seqs: set[int]) -> None:
        for change in changes:
            done = change.seq in seqs
            self.note(line, "settles", change.seq, change.fence, change.state, done)
            if done:
                self.demand(change.fence == self.fences[change.seq], "a stale fence did it")
                self.ended(change)

    def recovered(self, line: Line, found: Recovered) -> None:
        for change in found.crashed:
            self.note(line, "takes", change.seq, change.state)
            holder, task = self.held[change.seq, change.fence]
            self.demand(holder.was_cut, "a living worker was taken for dead")
            self.demand(change.attempts == task.attempts, "a crash was counted as an attempt")
            if change.state is State.PENDING:
                self.demand(change.crashes == task.crashes + 1, "a crash was not counted")
        for change in (*found.crashed, *found.settled):
            self.ended(change)

    def ended(self, change: Change) -> None:
        if change.state in TERMINAL:
            self.ends[change.seq] = self.ends.get(change.seq, 0) + 1


class Line:
    """The store as one worker reaches it. When it is cut the worker is dead to all others."""

    def __init__(self, backend: SQLiteBackend, journal: Journal, name: str) -> None:
        self._backend = backend
        self._journal = journal
        self._name = name
        self.is_cut = False
        self.was_cut = False

    def __str__(self) -> str:
        return self._name

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._backend, verb)

    async def __aenter__(self) -> Line:
        await self._backend.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._backend.close()

    def cut(self) -> None:
        self.is_cut = self.was_cut = True
        self._journal.note(self, "is cut off")

    async def hire(self, record: Any) -> int:
        return await self._reach(self._backend.hire(record))

    async def dismiss(self, worker: int) -> None:
        await self._reach(self._backend.dismiss(worker))

    async def cancelled(self, worker: int) -> set[int]:
        return await self._reach(self._backend.cancelled(worker))

    async def changed(self, token: int) -> None:
        await self._reach(self._backend.changed(token))

    async def prune(self, *args: Any, **bounds: Any) -> Any:
        return await self._reach(self._backend.prune(*args, **bounds))

    async def reserve(
        self, worker: int, wanted: Wanted, deliver: Callable[[list[Reservation]], None]
    ) -> float | None:
        def receive(tasks: list[Reservation]) -> None:
            self._journal.reserved(self, tasks)
            if not self.is_cut:  # or it died between the commit and the answer
                deliver(tasks)

        return await self._reach(self._backend.reserve(worker, wanted, receive))

    async def settle(
        self,
        worker: int,
        changes: Sequence[Change],
        deliver: Callable[[set[int]], None] | None = None,
    ) -> set[int]:
        def receive(seqs: set[int]) -> None:
            self._journal.settled(self, changes, seqs)
            if deliver is not None and not self.is_cut:
                deliver(seqs)

        return await self._reach(self._backend.settle(worker, changes, receive))

    async def recover(self, worker: int, rules: Sweep) -> Recovered:
        found = await self._reach(self._backend.recover(worker, rules))
        self._journal.recovered(self, found)
        return found

    async def _reach(self, answer: Any) -> Any:
        if self.is_cut:
            answer.close()
            raise StoreUnavailable("cut off")
        found = await answer
        if self.is_cut:
            raise StoreUnavailable("cut off")
        return found


@contextmanager
def from_seed(seed: int) -> Iterator[random.Random]:
    """All that is random is drawn from the seed while the block runs."""
    rng = random.Random(seed)
    ids = iter(range(1, 1_000_000))

    def shift(*args: Any) -> Shift:
        return Shift(*args, rng=random.Random(rng.random()))

    def new_id(now: float) -> bytes:
        return next(ids).to_bytes(16, "big")

    core: Any = trio._core._run
    core._r.seed(seed)
    LoopDriver.stalled_until = 0.0
    with (
        mock.patch.object(core, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        mock.patch.object(opened, "Driver", LoopDriver),
        mock.patch.object(sitq.worker, "Shift", shift),
        mock.patch("sitq.queue.new_id", new_id),
    ):
        yield rng


def run(main: Callable[[], Any]) -> Any:
    """Run it on trio, where no second passes unless everybody waits for it."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    return anyio.run(main, backend="trio", backend_options={"clock": clock})

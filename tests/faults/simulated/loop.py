"""Takes chance out of a queue: the store runs on the loop, time is virtual, one seed decides."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import anyio
import trio
import trio.testing

import sitq.calls
import sitq.worker
from sitq import Clock
from sitq.backends.sqlite import opened
from sitq.backends.sqlite.driver import Driver
from sitq.clock import to_microsecond
from sitq.worker.shift import Shift

from . import journal

EPOCH = 1_700_000_000.0

Work = Callable[[Any], Any]
Done = Callable[[Any, BaseException | None], None]


class LoopClock(Clock):
    """The clock of the loop; the wall clock beside it can jump."""

    def __init__(self) -> None:
        self.jumped = 0.0

    def time(self) -> float:
        return to_microsecond(EPOCH + self.jumped + trio.current_time())

    def monotonic(self) -> float:
        return trio.current_time()


class Pace:
    """How long the store takes: nothing, now and then a little, or as long as it stands still."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.slowest = rng.choice((0.0, 0.01, 1.0))
        self.stalled_until = 0.0

    async def pause(self) -> None:
        now = trio.current_time()
        until = self.stalled_until
        if self.slowest and self._rng.random() < 0.2:
            until = max(until, now + self._rng.uniform(0.0, self.slowest))
        if until > now:
            await trio.sleep_until(until)


class Question(NamedTuple):
    """A piece of work for the store, and who is to have the answer."""

    work: Work
    done: Done


class LoopDriver(Driver):
    """Does the work of the store in a task of the loop, one piece after the other."""

    pace: Pace

    def _open_thread(self) -> None:
        send, receive = trio.open_memory_channel[Any](100_000)
        self._put = send.send_nowait
        trio.lowlevel.spawn_system_task(self._serve, receive)

    def post(self, work: Work, done: Done) -> None:
        assert self._put is not None
        self._put(Question(work, done))  # type: ignore[arg-type]

    def soon(self, callback: Callable[[], None]) -> None:
        assert self._put is not None
        self._put(callback)

    async def _serve(self, posted: trio.MemoryReceiveChannel[Any]) -> None:
        async for one in posted:
            if one is None:
                return
            if isinstance(one, Question):
                await self._answer(one)
            else:
                one()

    async def _answer(self, question: Question) -> None:
        await self.pace.pause()
        try:
            answer, error = question.work(self._sound()), None
        except BaseException as caught:
            answer, error = None, caught
        await self.pace.pause()
        question.done(answer, error)

    def _connect(self, connector: Callable[[], Any]) -> None:
        super()._connect(connector)
        journal.install(self._connection)


@contextmanager
def from_seed(seed: int) -> Iterator[random.Random]:
    """All that is random is drawn from the seed while the block runs."""
    rng = random.Random(seed)
    ids = iter(range(1, 1_000_000))

    def shift(*args: Any) -> Shift:
        return Shift(*args, rng=random.Random(rng.random()))

    def new_ids(now: float, number: int) -> list[bytes]:
        return [next(ids).to_bytes(16, "big") for _ in range(number)]

    core: Any = trio._core._run
    core._r.seed(seed)
    LoopDriver.pace = Pace(random.Random(rng.random()))
    replaced = [
        (core, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        (opened, "Driver", LoopDriver),
        (sitq.worker, "Shift", shift),
        (sitq.calls, "new_ids", new_ids),
    ]
    before = [getattr(where, name) for where, name, _ in replaced]
    for where, name, value in replaced:
        setattr(where, name, value)
    try:
        yield rng
    finally:
        for (where, name, _), value in zip(replaced, before, strict=True):
            setattr(where, name, value)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run it on trio, where no second passes unless everybody waits for it."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    anyio.run(main, backend="trio", backend_options={"clock": clock})

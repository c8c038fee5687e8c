"""Group commit with a scripted driver: what is gathered, and who pays for whom."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from sitq.backends import commit
from sitq.backends.commit import GroupCommit, Operation
from sitq.errors import NotOpen, StoreError, StoreUnavailable

pytestmark = pytest.mark.anyio

Done = Callable[[Any, BaseException | None], None]


class Store:
    """Stands for connection and driver: work waits in `posted` until `step` runs it."""

    def __init__(self) -> None:
        self.posted: deque[tuple[Callable[[Any], Any], Done]] = deque()
        self.later: deque[Callable[[], None]] = deque()
        self.written: list[Any] = []
        self.batches: list[int] = []
        self.opened = 0
        self.broken = False

    def post(self, work: Callable[[Any], Any], done: Done) -> None:
        self.posted.append((work, done))

    def soon(self, callback: Callable[[], None]) -> None:
        self.later.append(callback)

    @contextmanager
    def transaction(self, _: Store) -> Generator[None]:
        self.opened += 1
        if self.broken:
            raise StoreUnavailable("locked")
        before = len(self.written)
        try:
            yield
        except BaseException:
            del self.written[before:]
            raise
        self.batches.append(len(self.written) - before)

    def step(self) -> bool:
        """Call back what is due, then run one posted piece of work."""
        while self.later:
            self.later.popleft()()
        if not self.posted:
            return False
        work, done = self.posted.popleft()
        try:
            result = work(self)
        except Exception as error:
            done(None, error)
        else:
            done(result, None)
        return True

    def drain(self) -> None:
        while self.step():
            pass


def write(value: Any, **options: Any) -> Operation[Store, Any]:
    def apply(store: Store) -> Any:
        if isinstance(value, Exception):
            raise value
        store.written.append(value)
        return value

    return Operation(apply, **options)


class Callers:
    """Submits operations, each from a task of its own, and keeps what came of them."""

    def __init__(self, store: Store, group: anyio.abc.TaskGroup) -> None:
        self.commit = GroupCommit(store, store.transaction)
        self.results: dict[int, Any] = {}
        self.scopes: list[anyio.CancelScope] = []
        self._group = group

    async def submit(self, *operations: Operation[Store, Any]) -> None:
        for operation in operations:
            scope = anyio.CancelScope()
            self.scopes.append(scope)
            self._group.start_soon(self._one, len(self.scopes) - 1, scope, operation)
            await settled(1)
        await settled()

    async def _one(
        self, index: int, scope: anyio.CancelScope, operation: Operation[Store, Any]
    ) -> None:
        with scope:
            try:
                self.results[index] = await self.commit.submit(operation)
            except Exception as error:
                self.results[index] = error


async def settled(rounds: int = 5) -> None:
    for _ in range(rounds):
        await checkpoint()


@pytest.fixture
def store() -> Store:
    return Store()


async def test_one_operation(store: Store) -> None:
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        await callers.submit(write("a"))
        store.drain()
    assert callers.results == {0: "a"}
    assert store.batches == [1]


async def test_what_gathers_becomes_one_transaction(store: Store) -> None:
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        await callers.submit(write(0))
        store.later.popleft()()  # the first is on its way
        await callers.submit(*(write(n) for n in range(1, 50)))
        store.drain()
    assert callers.results == {n: n for n in range(50)}
    assert store.batches == [1, 49]
    assert store.written == list(range(50))


async def test_a_batch_has_a_thousand_rows(store: Store) -> None:
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        await callers.submit(*(write(n, rows=100) for n in range(25)))
        store.drain()
    assert store.batches == [10, 10, 5]
    assert store.written == list(range(25))


async def test_a_batch_has_four_mebibytes(store: Store) -> None:
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        await callers.submit(*(write(n, size=1024 * 1024) for n in range(9)))
        store.drain()
    assert store.batches == [4, 4, 1]


async def test_an_operation_above_the_limits_goes_alone(store: Store) -> None:
    sizes = [{}, {"rows": 50_000}, {"size": 2**30}, {}, {}]
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        for n, options in enumerate(sizes):
            await callers.submit(write(n, **options))
            if n == 1:
                store.drain()
        store.drain()
    assert store.written == list(range(5))
    assert store.batches == [1, 1, 1, 2]


async def test_strangers_do_not_pay(store: Store) -> None:
    mistake = ValueError("row 2")
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        await callers.submit(*(write(mistake if n == 2 else n) for n in range(5)))
        store.drain()
    assert callers.results == {0: 0, 1: 1, 2: mistake, 3: 3, 4: 4}
    assert store.written == [0, 1, 3, 4]


async def test_a_broken_store_fails_everybody_separately(store: Store) -> None:
    store.broken = True
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        await callers.submit(*(write(n) for n in range(5)))
        store.drain()
    errors = list(callers.results.values())
    assert [type(error) for error in errors] == [StoreUnavailable] * 5
    assert len({id(error) for error in errors}) == 5
    assert {str(error) for error in errors} == {"locked"}
    assert store.opened == 1  # it was not tried once for each
    store.broken = False
    async with anyio.create_task_group() as group:
        callers._group = group
        await callers.submit(write("after"))
        store.drain()
    assert store.written == ["after"]


async def test_a_caller_cancelled_in_the_mailbox_leaves_nothing(store: Store) -> None:
    delivered: list[Any] = []
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        await callers.submit(*(write(n, deliver=delivered.append) for n in range(3)))
        callers.scopes[1].cancel()
        await settled()
        store.drain()
    assert callers.results == {0: 0, 2: 2}
    assert store.written == delivered == [0, 2]


async def test_all_callers_cancelled_in_the_mailbox(store: Store) -> None:
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        await callers.submit(write(0), write(1))
        for scope in callers.scopes:
            scope.cancel()
        await settled()
        store.drain()
        assert store.opened == 0
        await callers.submit(write(2))
        store.drain()
    assert store.written == [2]


async def test_a_caller_cancelled_in_flight_is_delivered(store: Store) -> None:
    delivered: list[Any] = []
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        await callers.submit(*(write(n, deliver=delivered.append) for n in range(3)))
        store.later.popleft()()
        callers.scopes[1].cancel()
        await settled()
        assert delivered == []
        store.drain()
    assert callers.results == {0: 0, 2: 2}
    assert store.written == delivered == [0, 1, 2]


async def test_a_failure_is_not_delivered(store: Store) -> None:
    delivered: list[Any] = []
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        await callers.submit(write(KeyError("x"), deliver=delivered.append), write(1))
        store.drain()
    assert delivered == []
    assert store.written == [1]


async def test_a_full_mailbox_makes_callers_wait(store: Store) -> None:
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        await callers.submit(write(0))
        store.later.popleft()()
        await callers.submit(*(write(n, rows=commit.MAX_WAITING // 2) for n in (1, 2)))
        await callers.submit(write(3), write(4))
        store.step()  # 0 is answered, 1 is posted: there is room again
        await settled()
        store.drain()
        await settled()
        store.drain()
    assert callers.results == {n: n for n in range(5)}
    assert store.written[:3] == [0, 1, 2]
    assert sorted(store.written[3:]) == [3, 4]  # who waits for room has no order on trio
    assert callers.commit._rows == 0


async def test_a_caller_cancelled_before_there_is_room(store: Store) -> None:
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        await callers.submit(write(0, rows=commit.MAX_WAITING), write(1))
        callers.scopes[1].cancel()
        await settled()
        store.drain()
    assert store.written == [0]


async def test_room_made_by_a_cancelled_caller_is_used(store: Store) -> None:
    with anyio.move_on_after(0.2) as limit:
        async with anyio.create_task_group() as group:
            callers = Callers(store, group)
            await callers.submit(write(0))
            store.later.popleft()()
            await callers.submit(write(1, rows=commit.MAX_WAITING), write(2))
            callers.scopes[1].cancel()
            for _ in range(5):
                await settled()
                store.drain()
    assert not limit.cancelled_caught
    assert store.written == [0, 2]


async def test_what_is_not_needed_opens_no_transaction(store: Store) -> None:
    delivered: list[Any] = []
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        for n in range(2):
            await callers.submit(write(n, needed=lambda _: False, deliver=delivered.append))
        store.drain()
    assert callers.results == {0: None, 1: None}
    assert store.opened == 0
    assert store.written == delivered == []


async def test_what_is_needed_is_done(store: Store) -> None:
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        await callers.submit(write(0, needed=lambda _: True))
        store.drain()
    assert store.written == [0]


async def test_what_is_not_needed_in_a_replay_answers_none(store: Store) -> None:
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        await callers.submit(write(0, needed=lambda _: False), write(ValueError("x")))
        store.drain()
    assert store.written == []
    assert callers.results[0] is None


async def test_a_store_that_breaks_while_looking_fails_everybody_separately(store: Store) -> None:
    def look(_: Store) -> bool:
        raise StoreError("gone")

    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        await callers.submit(write(0, needed=look), write(1, needed=look))
        store.drain()
    assert [str(error) for error in callers.results.values()] == ["gone", "gone"]
    assert callers.results[0] is not callers.results[1]


async def test_who_comes_when_the_store_is_closed_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store()

    def closed(*_: object) -> None:
        raise NotOpen("closed")

    monkeypatch.setattr(store, "post", closed)
    async with anyio.create_task_group() as group:
        callers = Callers(store, group)
        await callers.submit(write(1), write(2), write(3))
        while store.step():
            pass
        await settled()
        assert [type(error) for error in callers.results.values()] == [NotOpen] * 3
    assert not store.written
    assert not callers.commit._busy

"""Group commit: what many callers want at the same moment becomes one transaction.

There is no leader and no background task. The first caller posts the mailbox to the driver; when
the transaction has ended, a callback on the event loop hands out the answers and posts what has
gathered meanwhile. Callers only wait, so a cancelled one leaves a whole operation or none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Generic, Protocol, TypeVar

import anyio

from sitq.errors import StoreError

__all__ = ["GroupCommit", "Operation", "Poster", "ask"]

T = TypeVar("T")
C = TypeVar("C")

MAX_ROWS = 1_000
MAX_BYTES = 4 * 1024 * 1024
MAX_WAITING = 20_000
"""Rows in the mailbox above which callers wait for room."""


class Poster(Protocol):
    """What a driver gives to group commit."""

    def post(
        self,
        work: Callable[[Any], Any],
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        """Run ``work(connection)`` on the owning thread; ``done(result, error)`` on the loop."""
        ...

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back on the loop, after the tasks that are ready now have run."""
        ...


async def ask(poster: Poster, work: Callable[[Any], T]) -> T:
    """Have a driver run ``work``, and wait for its result.

    A caller that is cancelled leaves; the work is done all the same.
    """
    event = anyio.Event()
    answer: list[Any] = []

    def done(result: Any, error: BaseException | None) -> None:
        answer.extend((result, error))
        event.set()

    poster.post(work, done)
    await event.wait()
    result, error = answer
    if error is not None:
        raise error
    return result


class Operation(Generic[C, T]):
    """One caller's piece of work, whole inside one transaction.

    Args:
        apply: does it, on the connection, inside a transaction.
        rows: how many rows it writes.
        size: how many bytes it brings.
        needed: a look without a transaction; False means there is nothing to do.
        deliver: takes the result on the event loop, whether or not the caller still waits.
    """

    __slots__ = (
        "answered",
        "apply",
        "deliver",
        "error",
        "event",
        "needed",
        "result",
        "rows",
        "size",
    )

    def __init__(
        self,
        apply: Callable[[C], T],
        *,
        rows: int = 1,
        size: int = 0,
        needed: Callable[[C], bool] | None = None,
        deliver: Callable[[T], None] | None = None,
    ) -> None:
        self.apply: Callable[[C], T] = apply
        self.rows: int = rows
        self.size: int = size
        self.needed: Callable[[C], bool] | None = needed
        self.deliver: Callable[[T], None] | None = deliver
        self.event: anyio.Event = anyio.Event()
        self.result: T | None = None
        self.error: BaseException | None = None
        self.answered: bool = False


class GroupCommit(Generic[C]):
    """Gathers operations and commits them together.

    Args:
        poster: the driver that owns the connection.
        transaction: opens a transaction on the connection; commits at its end, or rolls back.
        at_once: does a whole batch in a shorter way, where there is one; False where there is none.
    """

    def __init__(
        self,
        poster: Poster,
        transaction: Callable[[C], AbstractContextManager[object]],
        at_once: Callable[[C, Sequence[Operation[C, Any]]], bool] = lambda connection, batch: False,
    ) -> None:
        self._poster = poster
        self._transaction = transaction
        self._at_once = at_once
        self._mailbox: deque[Operation[C, Any]] = deque()
        self._rows = 0
        self._busy = False
        self._alone = False
        """Whether nobody came with or during the last batch, of one operation."""
        self._room: anyio.Event | None = None
        self._outside = 0  # callers who wait for room

    async def submit(self, operation: Operation[C, T]) -> T | None:
        """Have an operation done, and wait for it.

        Returns:
            what its ``apply`` returned; None if it was not ``needed``.

        Raises:
            StoreError: it could not be done; nothing of it was.
        """
        if self._rows >= MAX_WAITING:
            await self._wait_for_room()
        self._put(operation)
        try:
            await operation.event.wait()
        except BaseException:
            self._withdraw(operation)
            raise
        if operation.error is not None:
            raise operation.error
        return operation.result

    async def drained(self) -> None:
        """Wait until everybody who called `submit` before has an answer."""
        while self._busy or self._outside:
            with suppress(StoreError):  # of those that it shares a transaction with
                await self.submit(Operation(_nothing, needed=_nothing))

    async def _wait_for_room(self) -> None:
        self._outside += 1
        try:
            while self._rows >= MAX_WAITING:
                if self._room is None:
                    self._room = anyio.Event()
                await self._room.wait()
        finally:
            self._outside -= 1

    def _put(self, operation: Operation[C, Any]) -> None:
        self._mailbox.append(operation)
        self._rows += operation.rows
        if not self._busy:
            self._busy = True
            if self._alone:
                self._flush()
            else:
                self._poster.soon(self._flush)

    def _withdraw(self, operation: Operation[C, Any]) -> None:
        if operation in self._mailbox:
            self._mailbox.remove(operation)
            self._rows -= operation.rows
            operation.event.set()  # nobody will answer it any more
            self._make_room()

    def _flush(self) -> None:
        batch = self._next_batch()
        if not batch:
            self._busy = False
            return
        self._make_room()
        answer = self._answer(batch)
        try:
            self._poster.post(lambda connection: self._commit(connection, batch), answer)
        except Exception as error:  # the poster was closed
            answer(None, error)

    def _make_room(self) -> None:
        if self._room is not None and self._rows < MAX_WAITING:
            self._room.set()
            self._room = None

    def _next_batch(self) -> list[Operation[C, Any]]:
        batch: list[Operation[C, Any]] = []
        rows = size = 0
        while self._mailbox:
            head = self._mailbox[0]
            if batch and (rows + head.rows > MAX_ROWS or size + head.size > MAX_BYTES):
                break
            batch.append(self._mailbox.popleft())
            rows += head.rows
            size += head.size
        self._rows -= rows
        return batch

    def _answer(
        self, batch: Sequence[Operation[C, Any]]
    ) -> Callable[[Any, BaseException | None], None]:
        def answer(_: object, error: BaseException | None) -> None:
            for operation in batch:
                operation.error = operation.error or error
                if operation.error is None and operation.deliver and operation.answered:
                    operation.deliver(operation.result)
                operation.event.set()
            self._busy = bool(self._mailbox)
            self._alone = len(batch) == 1 and not self._busy  # then nobody will come soon either
            if self._busy:  # together with what they want next who are answered now
                self._poster.soon(self._flush)

        return answer

    def _commit(self, connection: C, batch: Sequence[Operation[C, Any]]) -> None:
        try:
            if not self._is_needed(connection, batch):
                for operation in batch:
                    operation.result = None  # of a transaction that was rolled back
                return
            if not self._at_once(connection, batch):
                with self._transaction(connection):
                    for operation in batch:
                        operation.result = operation.apply(connection)
        except StoreError as error:
            for operation in batch:
                operation.error = _copy(error)
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
            else:
                self._replay(connection, batch)
        else:
            for operation in batch:
                operation.answered = True

    def _is_needed(self, connection: C, batch: Sequence[Operation[C, Any]]) -> bool:
        if any(operation.needed is None for operation in batch):
            return True
        return any(operation.needed and operation.needed(connection) for operation in batch)

    def _replay(self, connection: C, batch: Sequence[Operation[C, Any]]) -> None:
        """One operation at a time, so that strangers do not pay for the one that failed."""
        for operation in batch:
            self._commit(connection, (operation,))


def _nothing(_: object) -> bool:
    """The operation of who only waits: its answer comes after those before it."""
    return False


def _copy(error: StoreError) -> StoreError:
    """Each caller raises an exception of its own: tracebacks are not to be shared."""
    copy = type(error)(*error.args)
    copy.__cause__ = error
    return copy

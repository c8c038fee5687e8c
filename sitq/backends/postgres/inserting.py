"""Stores new tasks: a few statements, however many they are.

Written as a generator of statements, which takes their answers: whose connection it is, and how
that is waited for, is the caller's.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from sitq.backends.postgres.arrays import bodies, ids, numbers, texts
from sitq.backends.postgres.driver import Session
from sitq.backends.postgres.queries import Queries
from sitq.errors import StoreUnavailable
from sitq.model import NewTask

__all__ = ["Insert", "Statement", "Steps", "insert", "new_rows", "taken"]

T = TypeVar("T")
Statement = tuple[str, Mapping[str, Any] | None]
Steps = Generator[Statement, list[Any], T]

MOST_TRIES = 20
"""So many times the holders of keys may end just before they are looked for."""


class _Vanished(StoreUnavailable):
    """Who held a key was gone before it could be looked up."""


class Insert(NamedTuple):
    """New tasks, to be stored in a transaction, or by a statement that is one."""

    sql: Queries
    tasks: Sequence[NewTask]
    now: float | None

    repeatable = True

    def __call__(self, session: Session) -> list[bytes]:
        if self.is_one():
            return session.at_once(self._store)
        for _ in range(MOST_TRIES):
            # From the beginning: who holds keys and waits for lower ones may wait for ever.
            with suppress(_Vanished):
                return session.transaction(self._store)
        raise _Vanished("a key is taken and freed too often; try again later")

    def _store(self, session: Session) -> list[bytes]:
        steps = insert(self.sql, self.tasks, self.now, again=session.again, tries=1)
        return taken(session, steps)

    def is_one(self) -> bool:
        """Whether it is one statement."""
        return all(task.key is None for task in self.tasks)


def taken(session: Session, steps: Steps[T]) -> T:
    """Take the steps, one after the other."""
    answer: list[Any] | None = None
    while True:
        try:
            query, values = next(steps) if answer is None else steps.send(answer)
        except StopIteration as end:
            return end.value
        answer = session.rows(query, values)


def insert(
    sql: Queries,
    tasks: Sequence[NewTask],
    now: float | None,
    *,
    again: bool = False,
    tries: int = MOST_TRIES,
) -> Steps[list[bytes]]:
    """Store the tasks. Returns for each the id of the task that stands for it.

    Args:
        sql: the queries.
        tasks: to be stored, in their order.
        now: the time of a clock of one's own; None takes the server's.
        again: they may have been stored already.
        tries: how often, where holders of keys are gone before they can be looked up.
    """
    if len(tasks) == 1 and tasks[0].key is None and not again:
        [task] = tasks
        yield sql["insert_one"], task._asdict() | {"id": task.id.hex(), "now": now}
        return [task.id]
    if all(task.key is None for task in tasks):
        yield sql["insert_again" if again else "insert"], new_rows(tasks, now)
        return [task.id for task in tasks]
    stands_for: dict[bytes, bytes] = {}
    left: Sequence[NewTask] = tasks
    for _ in range(tries):
        if left:
            query = sql["insert_keyed_again" if again else "insert_keyed"]
            stored = yield query, new_rows(left, now)
            stands_for.update((id, id) for (id,) in stored)
            left = [task for task in left if task.id not in stands_for]
        if left and again:  # they may even have ended since, and freed their keys
            stored = yield sql["stored"], {"ids": ids(task.id for task in left)}
            stands_for.update((id, id) for id, _ in stored)
            left = [task for task in left if task.id not in stands_for]
        if left:
            found = yield sql["key_holders"], {"keys": texts(task.key for task in left)}
            holders = {key: id for key, id, _ in found}
            stands_for.update((task.id, holders[task.key]) for task in left if task.key in holders)
            left = [task for task in left if task.id not in stands_for]
        if not left:
            return [stands_for[task.id] for task in tasks]
    raise _Vanished(f"the key {left[0].key!r} is taken and freed too often; try again later")


def new_rows(tasks: Sequence[NewTask], now: float | None) -> dict[str, Any]:
    """The values of the query `new_rows`."""
    id, name, queue, priority, run_at, key, timeout, deadline, retry, arguments, enqueued = zip(
        *tasks, strict=True
    )
    return {
        "ids": ids(id),
        "names": texts(name),
        "queues": texts(queue),
        "priorities": numbers(priority),
        "run_at": numbers(run_at),
        "keys": texts(key),
        "timeouts": numbers(timeout),
        "deadlines": numbers(deadline),
        "retries": bodies(retry),
        "arguments": bodies(arguments),
        "enqueued": numbers(enqueued),
        "now": now,
    }

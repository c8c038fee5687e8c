"""One turn of a busy worker in one statement: its successes are settled, its free slots filled.

Between two statements a thread has to get hold of the interpreter again, which a busy event loop
gives away every few milliseconds only. So the usual case is one statement (``turn.sql``), that is
its own transaction, and C does all of it. What is not plain takes the usual way, and what a turn
leaves over is done after it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from sqlite3 import Connection
from typing import Any, NamedTuple

from sitq.backends.base import Wanted
from sitq.backends.commit import Operation
from sitq.backends.sql import load
from sitq.backends.sqlite import settling, verbs
from sitq.backends.sqlite.connect import Database, NotPlain
from sitq.backends.sqlite.damage import LATEST, MOST, condemn, is_name
from sitq.backends.sqlite.queries import INLINE, SQL
from sitq.backends.sqlite.settling import Settled
from sitq.errors import StoreError
from sitq.model import Change, Reservation, State

__all__ = ["Reserve", "Reserved", "Settle", "Turns"]

_SCRIPT = load("sitq.backends.sqlite", "turn.sql").format(
    pairs=SQL["pairs"], least=-MOST, most=MOST, latest=LATEST
)
_TURN = (
    "INSERT INTO sitq_turn VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING "
    "(SELECT settled FROM sitq_answer), (SELECT last FROM sitq_answer), "
    "(SELECT chosen FROM sitq_answer), (SELECT tasks FROM sitq_answer)"
)
_PARTS = 4_194_304
"""Of a second, in which ``turn.sql`` counts."""
_MOST_ENDS, _MOST_FENCE = 1 << 10, 1 << 22
"""What has a place in the number that tells of an end."""


class Settle(NamedTuple):
    """The changes of one worker, to be made inside a transaction, or by a turn."""

    worker: int
    changes: Sequence[Change]
    now: float

    def __call__(self, connection: Connection) -> Settled:
        return settling.settle(connection, self.worker, self.changes, self.now)

    def is_plain(self) -> bool:
        """Whether all succeeded at once, with results that stand in their rows."""
        return len(self.changes) <= _MOST_ENDS and all(
            0 <= change.fence < _MOST_FENCE
            and change.state is State.SUCCEEDED
            and change.attempts == 0
            and change.value is not None
            and len(change.value) <= INLINE
            for change in self.changes
        )


class Reserved(NamedTuple):
    """What a worker got."""

    tasks: list[Reservation]
    damaged: list[Change]
    """What became of those that cannot be given to anybody."""
    due: float | None = None
    """When the next task is due, if there were fewer than wanted."""


class Reserve(NamedTuple):
    """A worker's wish for tasks, to be met inside a transaction, or by a turn."""

    worker: int
    wanted: Wanted
    now: float

    def __call__(self, connection: Connection) -> Reserved:
        tasks, damaged = verbs.reserve(connection, self.worker, self.wanted, self.now)
        if len(tasks) < self.wanted.limit:
            return Reserved(tasks, damaged, verbs.next_due(connection, self.wanted, self.now))
        return Reserved(tasks, damaged)


_KINDS = frozenset((Settle, Reserve))


class Turns:
    """Does batches of operations in one statement where that can be done.

    Args:
        database: what the connections lead to.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._prepared: Connection | None = None
        self._answers_late: bool | None = None
        """Whether SQLite answers when it has taken the turn; None if it is not known yet."""
        self._damaged: list[int] = []
        """Rows that are still to be condemned."""

    def take(self, connection: Connection, batch: Sequence[Operation[Connection, Any]]) -> bool:
        """Do the operations, if one statement can do most of it. They have their results then."""
        wishes: dict[type, Any] = {type(operation.apply): operation.apply for operation in batch}
        settle: Settle | None = wishes.get(Settle)
        reserve: Reserve | None = wishes.get(Reserve)
        is_plain = _KINDS.issuperset(wishes) and len(wishes) == len(batch)
        if not is_plain or settle is None or not settle.is_plain():
            return False
        if reserve is not None and reserve.worker != settle.worker:
            return False
        try:
            settled, last, chosen, tasks = self._execute(connection, settle, reserve)
        except NotPlain:
            return False
        for operation in batch:
            try:
                if operation.apply is settle:
                    operation.result = self._settled(connection, settle, settled, last)
                elif reserve is not None:
                    operation.result = self._reserved(connection, reserve, chosen, tasks)
            except StoreError as error:  # the other one is done all the same
                operation.error = error
        return True

    def _execute(
        self, connection: Connection, settle: Settle, reserve: Reserve | None
    ) -> tuple[Any, ...]:
        self._prepare(connection)
        ends: dict[int, int] = {}
        bodies = [b"."]
        begin = 2
        for position, change in enumerate(settle.changes):
            body = change.value or b""
            ends[change.seq] = change.fence << 41 | begin << 21 | len(body) << 10 | position
            bodies.append(body)
            begin += len(body)
        wanted = None if reserve is None or reserve.wanted.skip else reserve.wanted
        queues = None if wanted is None or wanted.queues is None else json.dumps(wanted.queues)
        [answer] = self._database.execute(
            connection,
            _TURN,
            (
                json.dumps(ends),
                b"".join(bodies),
                len(settle.changes),
                settle.worker,
                settle.now,
                0 if wanted is None else wanted.limit,
                queues,
            ),
        )
        return answer

    def _prepare(self, connection: Connection) -> None:
        """Make what a turn needs, and see with an empty one that the answer is not that before it.

        SQLite does not promise in which order it takes a turn and answers.
        """
        if connection is not self._prepared:
            self._database.read(connection, lambda c: c.executescript(_SCRIPT))
            self._prepared = connection
        if self._answers_late is None:
            nothing = ("{}", b".", 0, 0, 0.0, 0, None)
            [answer] = self._database.execute(connection, _TURN, nothing)
            self._answers_late = answer[0] == 0
        if not self._answers_late:
            raise NotPlain

    def _settled(
        self, connection: Connection, settle: Settle, settled: int, last: int | None
    ) -> Settled:
        if settled == len(settle.changes):
            return Settled({change.seq for change in settle.changes})
        made: set[tuple[int, int]] = set()
        if settled and last is not None:
            span = (last - len(settle.changes), last)
            made = self._database.read(
                connection, lambda c: set(c.execute(SQL["ends_between"], span))
            )
        rest = [change for change in settle.changes if change[:2] not in made]
        with self._database.transaction(connection):
            others = settle._replace(changes=rest)(connection)
        return others._replace(seqs=others.seqs | {seq for seq, _ in made})

    def _reserved(
        self, connection: Connection, reserve: Reserve, chosen: str, tasks: str
    ) -> Reserved:
        read = [_from_json(*row) for row in json.loads(tasks)]
        given = [task for task in read if is_name(task.name) and is_name(task.queue)]
        given.sort(key=lambda task: (task.run_at, task.seq))
        self._damaged += {*json.loads(chosen)}.difference(task.seq for task in given)
        found = Reserved(given, [])
        with suppress(StoreError):  # who asks for more next meets it
            found = self._completed(connection, reserve, found)
        return found

    def _completed(self, connection: Connection, reserve: Reserve, found: Reserved) -> Reserved:
        """Condemn what is damaged, and look for more if there is less than wanted."""
        rest = reserve.wanted._replace(limit=reserve.wanted.limit - len(found.tasks))
        if self._damaged:
            with self._database.transaction(connection):
                damaged = condemn(connection, self._damaged, reserve.now)
            self._damaged.clear()
            found = found._replace(damaged=damaged)
        if not rest.limit:
            return found
        ready = self._database.read(connection, lambda c: verbs.is_ready(c, rest, reserve.now))
        if not ready:
            due = self._database.read(connection, lambda c: verbs.next_due(c, rest, reserve.now))
            return found._replace(due=due)
        with self._database.transaction(connection):
            more = reserve._replace(wanted=rest)(connection)
        return Reserved(found.tasks + more.tasks, found.damaged + more.damaged, more.due)


def _from_json(
    seq: int,
    id: str,
    name: str,
    queue: str,
    priority: int,
    fence: int,
    attempts: int,
    epoch: int,
    run_at: int | str,
    timeout: str | None,
    deadline: str | None,
    retry: str | None,
    arguments: str,
    enqueued: int | str,
    unknown_since: str | None,
    group: int | None,
) -> Reservation:
    """A task as ``turn.sql`` writes it."""
    return Reservation(
        seq,
        bytes.fromhex(id),
        name,
        queue,
        priority,
        fence,
        attempts,
        0,
        epoch,
        run_at / _PARTS if type(run_at) is int else float(run_at),
        None if timeout is None else float(timeout),
        None if deadline is None else float(deadline),
        None if retry is None else bytes.fromhex(retry),
        bytes.fromhex(arguments),
        enqueued / _PARTS if type(enqueued) is int else float(enqueued),
        None if unknown_since is None else float(unknown_since),
        group,
    )

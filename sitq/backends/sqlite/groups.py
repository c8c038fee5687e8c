"""Groups as the store has them: opened, filled, watched and cancelled by who is their parent.

Each function is to run inside a transaction of its caller, except those that only look.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from sqlite3 import Connection
from typing import Any

from sitq.backends.families import may_live, replayed
from sitq.backends.sqlite.damage import shown
from sitq.backends.sqlite.descent import cancel_trees
from sitq.backends.sqlite.inserting import MOST_ROWS, insert_keyed, put_big_arguments, row_of
from sitq.backends.sqlite.queries import SQL, with_rows
from sitq.backends.states import NUMBERS, STATES
from sitq.errors import KeyTaken, LeaseLost
from sitq.model import ChildEnd, Group, NewChild, NewGroup, State, TaskRow

__all__ = [
    "bereave",
    "cancel_group",
    "close_group",
    "ended_children",
    "insert_children",
    "open_group",
    "tree",
]


def open_group(connection: Connection, new: NewGroup, now: float) -> Group:
    """Open a group, or again the one that an earlier run of the task opened in its place.

    What was decided then, in the same epoch, holds: its deadline, and that a child failed.

    Raises:
        LeaseLost: the task is not in this run, or the program has no lease.
    """
    if new.parent is None:
        assert isinstance(new.owner, int)
        if connection.execute(SQL["has_lease"], (new.owner,)).fetchone() is None:
            raise LeaseLost("the lease of this program has lapsed: it stood still for too long")
        values = (new.owner, new.deadline, new.detach)
        id = connection.execute(SQL["open_own_group"], values).lastrowid
        assert id is not None
        return Group(id, None, new.fence, 0, new.owner, new.deadline)
    if connection.execute(SQL["is_run"], (new.parent, new.fence)).fetchone() is None:
        raise LeaseLost("this run of the task is over: the task was given to another worker")
    values = (new.parent, new.ordinal, new.epoch, new.deadline)
    [(id, deadline, generation)] = connection.execute(SQL["open_group"], values).fetchall()
    # Those that were asked to end are replaced, as those that have done so.
    asked = connection.execute(SQL["asked_children"], (id,)) if generation else ()
    cancel_trees(connection, [seq for (seq,) in asked], now)
    return Group(id, new.parent, new.fence, generation, None, deadline)


def insert_children(
    connection: Connection, group: Group, children: Sequence[NewChild], now: float
) -> list[bytes]:
    """Store children of a group, except those that an earlier run has stored.

    They are born cancelled where the group, or its parent, is to end.

    Returns:
        for each the id of the task that stands for it.

    Raises:
        LeaseLost: the group is no longer the caller's.
        ReplayMismatch: an earlier run enqueued something else in the place of one of them.
        KeyTaken: a task that is not of the group holds the key of one of them.
    """
    is_open = _may_live(connection, group)
    fresh, older, ids = replayed(group, children, _known(connection, group, children))
    for id in older:
        connection.execute(SQL["renew_child"], (group.generation, id))
    stands_for = _insert_rows(connection, group, fresh)
    put_big_arguments(connection, [child.task for child in fresh])
    if not is_open:
        seqs = [connection.execute(SQL["seq_of"], (child.task.id,)).fetchone() for child in fresh]
        cancel_trees(connection, [row[0] for row in seqs if row is not None], now)
    return [stands_for.get(id, id) for id in ids]


def ended_children(
    connection: Connection, group: Group, after: int, largest: int
) -> list[ChildEnd] | None:
    """Up to 1,000 children that have ended, in the order of their ends; None if none lives.

    Args:
        after: the number of the last end that is known.
        largest: up to so many bytes of each value are read.
    """
    # In this order: one that ends between the two looks must not be missed by both.
    [is_live] = connection.execute(SQL["has_live_children"], (group.id,)).fetchone()
    what = (largest, group.id, after, group.generation)
    ends = [
        ChildEnd(number, id or bytes(16), str(child), STATES[state], value)
        for number, id, child, state, value in connection.execute(SQL["ended_children"], what)
    ]
    return ends if ends or is_live else None


def cancel_group(connection: Connection, group: Group, now: float, *, at_once: bool) -> None:
    """Cancel the children: those that wait at once, those that run are asked to end.

    Nothing, if the group is no longer the caller's.

    Args:
        at_once: those that run are cancelled as well, whatever they are doing.
    """
    try:
        _may_live(connection, group)
    except LeaseLost:
        return
    connection.execute(SQL["mark_cancelled"], (group.id,))
    _end_children(connection, group.id, now, at_once=at_once)


def close_group(connection: Connection, group: Group, now: float, *, dismiss: bool) -> bool:
    """Forget a group of a program, and with ``dismiss`` its lease. False if that was taken.

    Children that are left, since the store could not be asked to cancel them, end now.
    """
    _end_children(connection, group.id, now, at_once=True)
    closed = connection.execute(SQL["close_group"], (group.id,)).rowcount == 1
    if dismiss:
        connection.execute(SQL["close_groups"], (group.owner,))
        connection.execute(SQL["dismiss"], (group.owner,))
    return closed


def bereave(connection: Connection, owner: Any, now: float) -> bool:
    """The program with this lease is dead: cancel the children that do not outlive it.

    Returns whether it had any groups.
    """
    owned = connection.execute(SQL["owned_groups"], (owner,)).fetchall()
    for id, detach in owned:
        if detach != 1:
            _end_children(connection, id, now, at_once=True)
        connection.execute(SQL["close_group"], (id,))
    return bool(owned)


def tree(connection: Connection, id: bytes, most: int) -> list[tuple[int | None, TaskRow]]:
    """A task and those below it, each with the ``seq`` of its parent; parents come first."""
    rows = connection.execute(SQL["tree"], (0, id, most))
    return [(parent, shown(tuple(row))) for parent, *row in rows]


def _end_children(connection: Connection, id: int, now: float, *, at_once: bool) -> None:
    live = connection.execute(SQL["live_children"], (id,)).fetchall()
    pending = NUMBERS[State.PENDING]
    cancel_trees(connection, [seq for seq, state in live if at_once or state == pending], now)
    if not at_once:
        asked = [(seq,) for seq, state in live if state != pending]
        connection.executemany(SQL["cancel_running"], asked)


def _may_live(connection: Connection, group: Group) -> bool:
    """Whether children of the group may live.

    Raises:
        LeaseLost: that is for another run to say, or for nobody any more.
    """
    row = connection.execute(SQL["parent_of"], (group.id,)).fetchone()
    if row is None:
        return may_live(group, None, (None, None, False))
    return may_live(group, row[:2], row[2:])


def _known(
    connection: Connection, group: Group, children: Sequence[NewChild]
) -> dict[str, tuple[bytes, int, int, bytes]]:
    """The children of these names that are stored, the youngest of each."""
    if not connection.execute(SQL["has_children"], (group.id,)).fetchone()[0]:
        return {}
    names = json.dumps([child.child for child in children])
    rows = connection.execute(SQL["children"], (group.id, names))
    return {name: (id, state, born, digest) for name, id, state, born, digest in rows}


def _insert_rows(
    connection: Connection, group: Group, children: Sequence[NewChild]
) -> dict[bytes, bytes]:
    """Store them. Returns for which another task stands, that has the key."""
    keyless: list[tuple[Any, ...]] = []
    others: dict[bytes, bytes] = {}
    for child in children:
        row = (*row_of(child.task), group.id, child.child, group.generation, child.digest)
        if child.task.key is None:
            keyless.append(row)
        else:
            _insert_many(connection, keyless)  # in turn: the order of enqueueing is a promise
            keyless.clear()
            holder = insert_keyed(connection, "insert_keyed_child", child.task, row)
            if holder is not None:
                _check_is_child(connection, group, holder, child.task.key)
                others[child.task.id] = holder
    _insert_many(connection, keyless)
    return others


def _insert_many(connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
    for start in range(0, len(rows), MOST_ROWS):
        connection.execute(*with_rows("insert_children", rows[start : start + MOST_ROWS]))


def _check_is_child(connection: Connection, group: Group, id: bytes, key: str) -> None:
    if connection.execute(SQL["is_child"], (group.id, id)).fetchone() is None:
        raise KeyTaken(f"a live task that is not of this group holds the key {key!r}")

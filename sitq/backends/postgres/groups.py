"""Groups as the store has them: opened, filled, watched and cancelled by who is their parent.

Each function is to run inside a transaction of its caller, except those that only look. Who
enqueues in a group holds its row and that of its parent from the look until the commit, so that
neither ends in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sitq.backends.families import may_live, replayed
from sitq.backends.postgres.arrays import bodies, ids, numbers, texts
from sitq.backends.postgres.descent import cancel_trees
from sitq.backends.postgres.driver import Session
from sitq.backends.postgres.inserting import MOST_TRIES, new_rows
from sitq.backends.postgres.queries import Queries
from sitq.backends.states import NUMBERS, state_of
from sitq.errors import KeyTaken, LeaseLost, StoreUnavailable
from sitq.model import ChildEnd, Group, NewChild, NewGroup, State

__all__ = [
    "bereave",
    "cancel_group",
    "close_group",
    "ended_children",
    "insert_children",
    "open_group",
]


def open_group(session: Session, sql: Queries, new: NewGroup, now: float | None) -> Group:
    """Open a group, or again the one that an earlier run of the task opened in its place.

    What was decided then, in the same epoch, holds: its deadline, and that a child failed.

    Raises:
        LeaseLost: the task is not in this run, or the program has no lease.
    """
    values = new._asdict()
    if new.parent is None:
        if session.row(sql["has_lease"], {"worker": new.owner}) is None:
            raise LeaseLost("the lease of this program has lapsed: it stood still for too long")
        [(id,)] = session.rows(sql["open_own_group"], values)
        assert isinstance(new.owner, int)
        return Group(id, None, new.fence, 0, new.owner, new.deadline)
    if session.row(sql["is_run"], values) is None:
        raise LeaseLost("this run of the task is over: the task was given to another worker")
    [(id, deadline, generation)] = session.rows(sql["open_group"], values)
    # Those that were asked to end are replaced, as those that have done so.
    asked = session.rows(sql["asked_children"], {"group": id}) if generation else ()
    cancel_trees(session, sql, [seq for (seq,) in asked], now)
    return Group(id, new.parent, new.fence, generation, None, deadline)


def insert_children(
    session: Session, sql: Queries, group: Group, children: Sequence[NewChild], now: float | None
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
    is_open = _may_live(session, sql, group)
    fresh, older, stands_for = replayed(group, children, _known(session, sql, group, children))
    if older:
        session.rows(sql["renew_children"], {"generation": group.generation, "ids": ids(older)})
    seqs, holders = _insert_rows(session, sql, group, fresh, now)
    if not is_open:
        cancel_trees(session, sql, seqs, now)
    return [holders.get(id, id) for id in stands_for]


def ended_children(
    session: Session, sql: Queries, group: Group, after: int, largest: int
) -> list[ChildEnd] | None:
    """Up to 1,000 children that have ended, in the order of their ends; None if none lives.

    Args:
        after: the number of the last end that is known.
        largest: up to so many bytes of each value are read.
    """
    values = {
        "group": group.id,
        "after": after,
        "generation": group.generation,
        "largest": largest or -1,
    }
    # In this order: one that ends between the two looks must not be missed by both.
    [(is_live,)] = session.rows(sql["has_live_children"], values)
    ends = [
        ChildEnd(number, id, child, state_of(state), value)
        for number, id, child, state, value in session.rows(sql["ended_children"], values)
    ]
    return ends if ends or is_live else None


def cancel_group(
    session: Session, sql: Queries, group: Group, now: float | None, *, at_once: bool
) -> None:
    """Cancel the children: those that wait at once, those that run are asked to end.

    Nothing, if the group is no longer the caller's.

    Args:
        at_once: those that run are cancelled as well, whatever they are doing.
    """
    try:
        _may_live(session, sql, group, "lock_group")
    except LeaseLost:
        return
    session.rows(sql["mark_cancelled"], {"group": group.id})
    _end_children(session, sql, group.id, now, at_once=at_once)


def close_group(
    session: Session, sql: Queries, group: Group, now: float | None, *, dismiss: bool
) -> bool:
    """Forget a group of a program, and with ``dismiss`` its lease. False if that was taken.

    Children that are left, since the store could not be asked to cancel them, end now.
    """
    session.rows(sql["lock_group"], {"group": group.id})
    _end_children(session, sql, group.id, now, at_once=True)
    closed = session.count(sql["close_group"], {"group": group.id}) == 1
    if dismiss:
        session.rows(sql["close_groups"], {"owner": group.owner})
        session.rows(sql["dismiss"], {"worker": group.owner})
    return closed


def bereave(session: Session, sql: Queries, owner: int, now: float | None) -> bool:
    """The program with this lease is dead: cancel the children that do not outlive it.

    Returns whether it had any groups.
    """
    owned = session.rows(sql["owned_groups"], {"owner": owner})
    for id, detach in owned:
        if not detach:
            _end_children(session, sql, id, now, at_once=True)
        session.rows(sql["close_group"], {"group": id})
    return bool(owned)


def _end_children(
    session: Session, sql: Queries, id: int, now: float | None, *, at_once: bool
) -> None:
    live = session.rows(sql["live_children"], {"group": id})
    pending = NUMBERS[State.PENDING]
    cancel_trees(session, sql, [seq for seq, state in live if at_once or state == pending], now)
    if not at_once:
        asked = [seq for seq, state in live if state != pending]
        session.rows(sql["cancel_running"], {"seqs": numbers(asked)})


def _may_live(session: Session, sql: Queries, group: Group, lock: str = "share_group") -> bool:
    """Whether children of the group may live. Parent and group stay as they are until the commit.

    Raises:
        LeaseLost: that is for another run to say, or for nobody any more.
    """
    # Always the parent before its group, and the group before its children.
    parent = session.row(sql["parent"], {"parent": group.parent})
    row = session.row(sql[lock], {"group": group.id})
    return may_live(group, row, parent or (None, None, False))


def _known(
    session: Session, sql: Queries, group: Group, children: Sequence[NewChild]
) -> dict[str, tuple[bytes, int, int, bytes]]:
    """The children of these names that are stored, the youngest of each."""
    names = texts(child.child for child in children)
    rows = session.rows(sql["children"], {"group": group.id, "children": names})
    return {name: (id, state, born, digest) for name, id, state, born, digest in rows}


def _insert_rows(
    session: Session, sql: Queries, group: Group, children: Sequence[NewChild], now: float | None
) -> tuple[list[int], dict[bytes, bytes]]:
    """Store them. Returns their numbers, and for which of them another task stands."""
    seqs: list[int] = []
    others: dict[bytes, bytes] = {}
    left: list[NewChild] = [*children]
    for _ in range(MOST_TRIES):
        if not left:
            return seqs, others
        query = sql["insert_children_again" if session.again else "insert_children"]
        stored: dict[bytes, int] = dict(session.rows(query, _member_values(group, left, now)))
        if session.again:  # a try before, whose answer was lost, may just have stored them
            rows = session.rows(sql["stored"], {"ids": ids(child.task.id for child in left)})
            stored.update(rows)
        seqs += stored.values()
        left = [child for child in left if child.task.id not in stored]
        keys = texts(child.task.key for child in left)
        found = session.rows(sql["key_holders"], {"keys": keys}) if left else ()
        holders = {key: (id, its_group) for key, id, its_group in found}
        for child in left:
            if child.task.key in holders:
                id, its_group = holders[child.task.key]
                if its_group != group.id:
                    raise KeyTaken(
                        f"a live task that is not of this group holds the key {child.task.key!r}"
                    )
                others[child.task.id] = id
        left = [child for child in left if child.task.id not in others]
    raise StoreUnavailable("a key is taken and freed too often; try again later")


def _member_values(group: Group, children: Sequence[NewChild], now: float | None) -> dict[str, Any]:
    return {
        **new_rows([child.task for child in children], now),
        "group": group.id,
        "generation": group.generation,
        "children": texts(child.child for child in children),
        "digests": bodies(child.digest for child in children),
    }

"""What a store decides about groups and their children, by what it has read of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sitq.backends.states import NUMBERS
from sitq.errors import LeaseLost, ReplayMismatch
from sitq.model import Group, NewChild, State

__all__ = ["Replayed", "may_live", "replayed"]

_OVER = (NUMBERS[State.FAILED], NUMBERS[State.CANCELLED])
_ENDED = (NUMBERS[State.SUCCEEDED], *_OVER)


class Replayed(NamedTuple):
    """What is to be done about children that may be stored already."""

    fresh: list[NewChild]
    """These are to be stored."""
    older: list[bytes]
    """These live on, and are of the group's generation from now on."""
    ids: list[bytes]
    """Of the tasks that stand for the children, in their order."""


def replayed(
    group: Group,
    children: Sequence[NewChild],
    known: Mapping[str, tuple[bytes, int, int, bytes]],
) -> Replayed:
    """Tell children that an earlier run has stored from those that are new.

    Args:
        group: theirs.
        children: to be stored.
        known: of those that are stored by name, of each the youngest: its id, the number of its
            state, the generation in which it was born, and its digest.

    Raises:
        ReplayMismatch: an earlier run enqueued something else in the place of one of them.
    """
    found = Replayed([], [], [])
    for child in children:
        if child.child in known:
            id, state, born, digest = known[child.child]
            if digest != child.digest:
                raise ReplayMismatch(
                    f"an earlier run of the task enqueued another call as its child {child.child}: "
                    "a task that opens groups must enqueue the same calls when it runs again"
                )
            if state not in _OVER or born >= group.generation:
                if born < group.generation:
                    found.older.append(id)
                found.ids.append(id)
                continue
        found.fresh.append(child)
        found.ids.append(child.task.id)
    return found


def may_live(
    group: Group, row: tuple[bool, bool] | None, parent: tuple[int | None, int | None, bool]
) -> bool:
    """Whether children of the group may live.

    Args:
        group: as its parent knows it.
        row: whether it is cancelled, and whether a program owns it; None if it is gone.
        parent: the number of the state of the task that opened it, its fence, and whether it is
            asked to end.

    Raises:
        LeaseLost: that is for another run to say, or for nobody any more.
    """
    if row is not None:
        is_cancelled, is_owned = row
        if is_owned:
            return not is_cancelled
        state, fence, cancel = parent
        if state == NUMBERS[State.RUNNING] and fence == group.fence:
            return not is_cancelled and not cancel
        if state in _ENDED:
            return False
    raise LeaseLost("the group is no longer this run's, or this program's: its lease was taken")

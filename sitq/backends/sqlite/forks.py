"""Refuses a file in a process that was forked while its parent had the file open.

The locks of a process are not inherited, and SQLite does not notice: in the child it counts on
those that its parent holds. When the parent then closes the file, the log is deleted that the child
still writes to, and what it commits from then on is lost (seen).
"""

from __future__ import annotations

import os
from contextlib import suppress

from sitq.errors import NotOpen

__all__ = ["Claim", "claim", "refuse_inherited", "release"]

Claim = tuple[tuple[int, int], int, object]
"""The file, the process that has it open, and what tells this claim from others."""

_claims: set[Claim] = set()
"""Also those of before a fork. Changed without a lock, which a fork could leave held for ever."""


def refuse_inherited(path: str) -> None:
    """Look whether a file was open in the process that this one was forked from.

    Raises:
        NotOpen: it was.
    """
    here = os.getpid()
    with suppress(OSError):  # it is not there
        file = _identity(path)
        if any(claimed == file and process != here for claimed, process, _ in [*_claims]):
            raise NotOpen(
                f"{path} was opened before a fork, in the process that was forked: close it there "
                "before, or open it in the child alone"
            )


def claim(path: str) -> Claim:
    """Note that a file is open here, until `release`."""
    made = (_identity(path), os.getpid(), object())
    _claims.add(made)
    return made


def release(made: Claim) -> None:
    """Note that it is closed. Once or more often."""
    _claims.discard(made)


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino

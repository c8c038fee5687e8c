"""Outcomes of runs that an exception ended."""

from __future__ import annotations

from contextlib import suppress

from sitq.errors import NotSerializable
from sitq.failure import describe, pack_error, summary
from sitq.model import Outcome, OutcomeKind
from sitq.retry import type_names

__all__ = ["failed", "untransferable"]


def failed(
    error: BaseException, *, final: bool = False, kind: OutcomeKind = OutcomeKind.FAILED
) -> Outcome:
    """A run failed with this exception; with ``final`` it is not retried."""
    types = frozenset[str]()
    with suppress(BaseException):  # an exception that cannot even be looked at is a failure as well
        types = type_names(error)
    return Outcome(kind, error=pack_error(describe(error)), types=types, final=final)


def untransferable(what: str, error: BaseException) -> Outcome:
    """A value did not get to the process of the run, or back."""
    reason = summary(describe(error))
    return failed(NotSerializable(f"{what} cannot go to another process: {reason}"), final=True)

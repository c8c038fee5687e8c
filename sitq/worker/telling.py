"""Writes what runs tell of their progress: the newest of each, those of all runs together.

A worker whose functions never tell has nothing of it but one task that sleeps.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import anyio

from sitq.errors import StoreUnavailable, StoreUnusable
from sitq.model import Note
from sitq.worker.run import Run
from sitq.worker.shift import Shift

__all__ = ["tell", "tell_last"]

SPACING = 0.5
"""Seconds from one write to the next."""
LAST_LIMIT = 1.0
"""Seconds for which a settle waits for what its runs have told: it is of less account."""


async def tell(shift: Shift) -> None:
    """Write what is new: at once, but not sooner after the last write than the spacing."""
    is_late = False
    while True:
        await shift.something_told.wait()
        shift.something_told = anyio.Event()
        shift.is_told = False
        notes = _take(shift)
        if notes:
            error = await _write(shift, notes)
            if error is not None and not is_late:
                _warn(shift, notes, error)
            is_late = error is not None
            await anyio.sleep(SPACING)


async def tell_last(shift: Shift, runs: Iterable[Run]) -> None:
    """Write what these have told and is not written: they are about to be settled.

    Whatever goes wrong here, they are.
    """
    # What is just being written is written again, for nobody knows which comes first.
    found = {run: shift.told.get(run) or shift.telling.get(run) for run in runs}
    notes = {run: note for run, note in found.items() if note is not None}
    if not notes:
        return
    try:
        with anyio.fail_after(LAST_LIMIT):
            await shift.backend.progress(shift.worker, list(notes.values()))
            for run in notes:
                shift.told.pop(run, None)
    except TimeoutError:
        _warn(shift, notes, f"no answer in {LAST_LIMIT} s")
    except Exception as error:
        _warn(shift, notes, error)


def _take(shift: Shift) -> dict[Run, Note]:
    """All that is new of runs that are still held. Their threads may tell more meanwhile."""
    notes: dict[Run, Note] = {}
    while shift.told:
        run, note = shift.told.popitem()
        if shift.held.get(note.seq) is run:
            notes[run] = note
    return notes


async def _write(shift: Shift, notes: dict[Run, Note]) -> Exception | None:
    """Write these. Returns why they were not written; then they wait, if that may pass."""
    shift.telling = notes
    is_done = False
    try:
        await shift.backend.progress(shift.worker, list(notes.values()))
        is_done = True
    except StoreUnusable:
        raise
    except StoreUnavailable as error:
        return error
    except Exception as error:  # the store does not take one of them: no reason to end the worker
        is_done = True
        return error
    finally:
        shift.telling = {}
        if not is_done:
            _put_back(shift, notes)
    return None


def _put_back(shift: Shift, notes: dict[Run, Note]) -> None:
    for run, note in notes.items():
        shift.told.setdefault(run, note)
    shift.hear()


def _warn(shift: Shift, notes: dict[Run, Note], error: object) -> None:
    shift.log(logging.WARNING, "cannot tell of progress for now", tasks=len(notes), error=error)

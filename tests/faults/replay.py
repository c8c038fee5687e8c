"""What a disk may hold after the power was lost, from a record of what was done to it.

What was written before a sync of the same file began is there once that sync has ended. Of the rest
anything may be there: none, all, some of it in any mixture, a write cut at a sector. Names are kept
by the folder in the same way, so a file whose name was never synced may be gone with all it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from .disk import FOLDER, Kind, Record

SECTOR = 512

Names = dict[str, int | None]
"""Which file a name leads to from here on; None: to none."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change that a loss of power may undo: to a file, or (``names``) to the folder."""

    file: int
    offset: int = 0
    body: bytes | None = None
    """None: the file is cut at ``offset``."""
    names: Names = field(default_factory=dict[str, "int | None"])

    def sectors(self) -> Iterator[Change]:
        """A write, as what a disk writes in one piece."""
        assert self.body is not None
        start = self.offset
        end = start + len(self.body)
        while start < end:
            stop = min(end, (start // SECTOR + 1) * SECTOR)
            yield Change(self.file, start, self.body[start - self.offset : stop - self.offset])
            start = stop


Choice = Callable[[Sequence[Change]], Sequence[Change]]
"""Which of the changes that were not synced are there after the loss."""


class Replay:
    """The folder, as far as the record was applied.

    Args:
        honest: False forgets every sync of the folder: a check of the check.
    """

    def __init__(self, *, honest: bool = True) -> None:
        self._honest = honest
        self._serial = FOLDER
        self._serials: dict[int, int] = {FOLDER: FOLDER}  # an inode's number is used again
        self._live: Names = {}
        self._names: Names = {}
        self._files: dict[int, bytearray] = {}
        self._pending: list[Change] = []
        self._syncs: dict[int, list[Change]] = {}

    def apply(self, record: Record) -> None:
        """One more step of the record."""
        if record.kind is Kind.SYNC_BEGINS:
            file = self._serials[record.inode]
            self._syncs[record.sync] = [c for c in self._pending if c.file == file]
        elif record.kind is Kind.SYNC_ENDS:
            self._keep(self._syncs.pop(record.sync))
        elif record.kind is Kind.SYNC_FAILS:
            self._forget(self._syncs.pop(record.sync))
        elif record.kind is Kind.WRITE:
            file = self._serials[record.inode]
            self._pending.append(Change(file, record.offset, record.body))
        elif record.kind is Kind.TRUNCATE:
            self._pending.append(Change(self._serials[record.inode], record.offset))
        else:
            names = self._renamed(record)
            self._live.update(names)
            self._pending.append(Change(FOLDER, names=names))

    def state(self, choose: Choice) -> dict[str, bytes]:
        """The files by name, if the power is lost now."""
        names = dict(self._names)
        files = {serial: bytearray(kept) for serial, kept in self._files.items()}
        for change in choose(self._pending):
            _apply(change, names, files)
        return {
            name: bytes(files.get(serial, b""))
            for name, serial in names.items()
            if serial is not None
        }

    def _keep(self, changes: Sequence[Change]) -> None:
        if not self._honest and changes and changes[0].file == FOLDER:
            return
        synced = set(map(id, changes))
        for change in self._pending:
            if id(change) in synced:
                _apply(change, self._names, self._files)
        self._pending = [change for change in self._pending if id(change) not in synced]

    def _forget(self, changes: Sequence[Change]) -> None:
        """Linux tells of an error once: no later sync writes what the failed one did not."""
        lost = set(map(id, changes))
        self._pending = [change for change in self._pending if id(change) not in lost]

    def _renamed(self, record: Record) -> Names:
        name = record.names[0]
        if record.kind is Kind.CREATE:
            self._serial += 1
            self._serials[record.inode] = self._serial
            return {name: self._serial}
        if record.kind is Kind.LINK:
            return {name: self._serials[record.inode]}
        if record.kind is Kind.RENAME:
            return {record.names[1]: self._live[name], name: None}
        return {name: None}


def _apply(change: Change, names: Names, files: dict[int, bytearray]) -> None:
    if change.file == FOLDER:
        names.update(change.names)
        return
    file = files.setdefault(change.file, bytearray())
    size = change.offset + len(change.body or b"")
    if len(file) < size:
        file.extend(bytes(size - len(file)))
    if change.body is None:
        del file[change.offset :]
    else:
        file[change.offset : size] = change.body


def write(files: dict[str, bytes], folder: Path) -> None:
    """Have exactly these files in the folder."""
    for old in folder.iterdir():
        old.unlink()
    for name, body in files.items():
        (folder / name).write_bytes(body)


def none(_: Sequence[Change]) -> Sequence[Change]:
    """The power was lost before anything of it reached the disk."""
    return ()


def everything(pending: Sequence[Change]) -> Sequence[Change]:
    """As after the death of the process alone."""
    return pending


def some(rng: Random) -> Choice:
    """Any mixture: a later change may be there and an earlier one not."""
    return lambda pending: [change for change in pending if rng.random() < 0.5]


def torn(rng: Random) -> Choice:
    """All of it, but the last write only in part."""

    def choose(pending: Sequence[Change]) -> Sequence[Change]:
        for place in reversed(range(len(pending))):
            if pending[place].body:
                kept = [piece for piece in pending[place].sectors() if rng.random() < 0.5]
                return [*pending[:place], *kept, *pending[place + 1 :]]
        return pending

    return choose

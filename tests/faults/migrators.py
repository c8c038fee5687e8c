"""Processes of a later sitq, whose schema has a rung more, opening one database together.

``python migrators.py DATABASE`` reads a number for each line of its input, lets so many processes
open the database at the same moment, and answers with how each of them ended.
"""

from __future__ import annotations

import os
import sys

from sitq.backends.sqlite import migrate
from sitq.backends.sqlite.connect import Database

LATER = """
ALTER TABLE sitq_task ADD COLUMN note TEXT;
UPDATE sitq_task SET note = 'from before';
CREATE TABLE sitq_note (seq INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE INDEX sitq_by_note ON sitq_task (note);
INSERT INTO sitq_note (seq, text) SELECT seq, note FROM sitq_task;
"""
MIGRATED, FOUND = 10, 11


def open_database(path: str) -> int:
    """Whether this process was the one that migrated it."""
    rungs = 0

    def statements(script: str) -> list[str]:
        nonlocal rungs
        rungs += 1
        return list(split(script))

    split = migrate._statements
    migrate._statements = statements
    Database(path, "FULL", 30.0).create().close()
    return MIGRATED if rungs else FOUND


def start(path: str, gate: int) -> int:
    """Fork a process that opens the database when the gate is closed. Returns its id."""
    child = os.fork()
    if child == 0:
        try:
            os.read(gate, 1)
            os._exit(open_database(path))
        finally:
            os._exit(1)
    return child


def main() -> None:
    migrate.RUNGS = (*migrate.RUNGS, LATER)
    for line in sys.stdin:
        gate, opener = os.pipe()
        children = [start(sys.argv[1], gate) for _ in range(int(line))]
        os.write(opener, b"." * len(children))
        statuses = [os.waitpid(child, 0)[1] for child in children]
        os.close(gate)
        os.close(opener)
        print(*map(os.waitstatus_to_exitcode, statuses), flush=True)


if __name__ == "__main__":
    main()

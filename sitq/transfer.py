"""Carries the tasks of a SQLite file over to PostgreSQL: all of them, or none.

``python -m sitq.transfer tasks.db postgresql://user@host/database`` copies every task with all that
is known of it, results and families too, in one transaction. Ids stay, and with them every handle.
The file is only read: stop what uses it before, and delete it afterwards.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sitq.backends.url import postgres_backend
from sitq.errors import SitqError

__all__ = ["transfer"]


def transfer(path: str | Path, url: str, *, schema: str = "sitq") -> int:
    """Copy the tasks of a file into a schema that has none. Returns how many there were.

    Args:
        path: of the SQLite file. Nobody may use it: no worker, and no program with a group.
        url: of the database, as `sitq.PostgresBackend` takes it.
        schema: of the tables, which are made if they are missing.

    Raises:
        UsageError: the file is missing, or the schema has tasks already.
        WrongState: a worker or program has a lease in the file, or a task in it is running.
        StoreError: one of the stores cannot be used. Nothing was copied.
    """
    postgres_backend()  # or an error that says what to install
    from sitq.backends.postgres.transfer import transfer

    return transfer(Path(path), url, schema)


def _main(arguments: list[str]) -> int:
    if len(arguments) not in (2, 3):
        print("usage: python -m sitq.transfer FILE URL [SCHEMA]", file=sys.stderr)
        return 2
    path, url, *schema = arguments
    try:
        count = transfer(path, url, schema=schema[0] if schema else "sitq")
    except (SitqError, ImportError) as error:
        print(f"sitq.transfer: {error}", file=sys.stderr)
        return 1
    print(f"{count} tasks are in PostgreSQL now; delete {path} when you have seen them there")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))

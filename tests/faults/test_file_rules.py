"""Rules of SQLite that must never be broken, held to while several processes use one file."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

CHILD = Path(__file__).with_name("watched.py")


def test_transactions_and_descriptors(tmp_path: Path) -> None:
    """Every transaction that writes is IMMEDIATE, and only SQLite opens the files of a database.

    A deferred transaction fails when it comes to write after another one did; closing any
    descriptor of a database takes away the locks that SQLite holds on it in the same process.
    """
    path = tmp_path.resolve() / "tasks.db"
    children = [
        subprocess.Popen(
            [sys.executable, "-P", str(CHILD), str(path), loop],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for loop in ("asyncio", "trio", "asyncio")
    ]
    try:
        for child in children:
            said, errors = child.communicate(timeout=60)
            assert child.returncode == 0, errors
            seen = ast.literal_eval(said)
            assert seen["begun"] > 50
            assert seen["written"] > 50
            assert seen["turns"] > 5
            assert seen["inserts"] > 5
    finally:
        for child in children:
            child.kill()

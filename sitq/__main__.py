"""The command ``sitq``, and ``python -m sitq``."""

from __future__ import annotations

import sys

__all__ = ["main"]

ADVICE = "sitq: the command line is an extra: pip install 'sitq[cli]'"


def main() -> None:
    """Run the command line, or say how to install what it needs."""
    try:
        from sitq.cli import main as run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(ADVICE)
    run()


if __name__ == "__main__":
    main()

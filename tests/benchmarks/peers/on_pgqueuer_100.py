"""PgQueuer whose worker takes a hundred jobs at once."""

from __future__ import annotations

from functools import partial

from tests.benchmarks.peers import on_pgqueuer

__all__ = ["opened"]

opened = partial(on_pgqueuer.opened, batch=100)

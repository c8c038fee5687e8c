"""How much work the measurements do: enough for steady figures, or a little to try them out."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["QUICK", "USUAL", "Sizes"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of calls, rows, turns; seconds."""

    enqueued: int = 5_000
    bulk: int = 20_000
    callers: int = 100
    drained: int = 20_000
    drained_long: int = 200_000
    drained_by_peers: int = 5_000
    drained_slowly: int = 1_000
    in_threads: int = 5_000
    started: int = 200
    pace: float = 20.0
    idle: float = 5.0
    trips: int = 200
    burned: int = 1_000
    history: int = 1_000_000
    warm: int = 20_000
    queued: int = 1_000_000
    delayed: int = 300_000
    turns: int = 50
    steps: tuple[float, ...] = (0.001, 0.02)
    waiters: int = 10_000
    children: int = 10_000
    parents: int = 1_000
    imports: int = 7
    syncs: int = 500
    at_once: int = 10_000
    committers: int = 32
    committer_processes: int = 4
    committed: int = 9_600
    held: int = 100_000
    reserves: int = 50


USUAL = Sizes()
QUICK = Sizes(
    enqueued=20,
    bulk=50,
    callers=5,
    drained=50,
    drained_long=100,
    drained_by_peers=20,
    drained_slowly=10,
    in_threads=20,
    started=5,
    pace=200.0,
    idle=0.02,
    trips=3,
    burned=4,
    history=200,
    warm=50,
    queued=2_000,
    delayed=200,
    turns=1,
    steps=(0.02,),
    waiters=50,
    children=20,
    parents=5,
    imports=1,
    syncs=5,
    at_once=30,
    committers=4,
    committer_processes=2,
    committed=20,
    held=300,
    reserves=2,
)

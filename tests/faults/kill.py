"""Processes enqueue and work on one file while they are killed all the time: is anything lost?

    python tests/faults/kill.py --cycles 2000 --workers 4 --seed 1

Workers, enqueuers, a process that prunes and two that create databases run beside each other, on
asyncio and trio. In each cycle at least one of them gets a SIGKILL, at a random moment or at a
failpoint (`tests/faults/crash/failpoints.py`), and is started again; now and then a worker is
stopped for longer than its lease, and goes on. In the end all are killed at
once, a clean worker does what is left, and the journals of the processes are compared with the one
that triggers wrote in the database. It prints one line of figures, and exits with 1 when a promise
was broken. The seed fixes who is to die where; the moments are never quite the same again.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

if __package__ in (None, ""):  # run as a program: the tests are not on the path
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.faults.crash.director import Director
from tests.faults.crash.verdict import Verdict, judge
from tests.faults.crash.zygote import Zygote

LOOPS = {"asyncio": ("asyncio",), "trio": ("trio",), "both": ("asyncio", "trio")}


@dataclass(slots=True)
class Figures:
    """What one run did and found."""

    seed: int
    cycles: int
    kills: dict[str, int] = field(default_factory=dict[str, int])
    """By failpoint, or ``random``."""
    stalls: int = 0
    databases: int = 0
    seconds: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)

    def line(self) -> str:
        """The most important ones."""
        found = self.verdict
        kills = ", ".join(f"{name} {number}" for name, number in sorted(self.kills.items()))
        return (
            f"seed {self.seed} cycles {self.cycles} kills {sum(self.kills.values())} ({kills}) "
            f"stalls {self.stalls} "
            f"tasks {found.tasks} runs {found.runs} killed runs {found.killed_runs} "
            f"acknowledged {found.acknowledged} = settled {found.settled} + live {found.live} "
            f"lost {found.lost} settled twice {found.settled_twice} unexpected {found.unexpected} "
            f"violations {len(found.violations)} in {self.seconds:.1f} s"
        )


def run(
    folder: Path,
    *,
    cycles: int,
    workers: int = 4,
    seed: int = 0,
    loop: str = "both",
    path: Path | None = None,
) -> Figures:
    """Run so many cycles, drain, and compare.

    Args:
        folder: for the journals of the processes; empty.
        cycles: how many.
        workers: how many processes work.
        seed: decides who dies where.
        loop: ``asyncio``, ``trio`` or ``both``.
        path: of the database, which must not exist; default: in the folder.
    """
    path = path or folder / "tasks.db"
    began = time.monotonic()
    with Zygote(folder / "errors.txt") as zygote:
        director = Director(zygote, path, folder, workers, LOOPS[loop], random.Random(seed))
        director.create()
        for _ in range(cycles):
            director.cycle()
        director.finish()
    verdict = judge(path, folder, director.killed, director.stalled)
    verdict.violations += director.violations
    return Figures(
        seed,
        cycles,
        kills=dict(director.kills),
        stalls=sum(map(len, director.stalled.values())),
        databases=director.databases,
        seconds=time.monotonic() - began,
        verdict=verdict,
    )


def main() -> int:
    """The program. Returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--db", type=Path, help="the database, which must not exist yet")
    parser.add_argument("--loop", choices=LOOPS, default="both")
    parser.add_argument("--json", action="store_true", help="print all figures, as JSON")
    wanted = parser.parse_args()
    if wanted.db is not None and wanted.db.exists():
        parser.error(f"{wanted.db} exists")
    folder = Path(tempfile.mkdtemp(prefix="sitq-kill-"))
    figures = run(
        folder,
        cycles=wanted.cycles,
        workers=wanted.workers,
        seed=wanted.seed,
        loop=wanted.loop,
        path=wanted.db,
    )
    print(json.dumps(asdict(figures)) if wanted.json else figures.line(), flush=True)
    if figures.verdict.violations:
        print(*figures.verdict.violations[:100], sep="\n", file=sys.stderr)
        print(f"seed {wanted.seed}: the journals are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Crashes the server under load, or kills the workers: is anything lost, or done twice?

    python -m tests.faults.postgres.crash --crashes 50 --seed 1
    python -m tests.faults.postgres.crash --kills 200 --seed 1

Processes enqueue and work on a server of their own, on asyncio and trio. Every second or so the
server is killed with all its children, or stopped at once, and started again; or a worker is killed
and another started. It prints figures, and fails when a promise was broken.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import asdict

from .load import Figures, load
from .server import OwnServer, own_server

__all__ = ["crashed", "killed"]

LEASE = 0.6


def crashed(server: OwnServer, crashes: int, seed: int, *, workers: int = 2) -> Figures:
    """Crash the server so often. No worker dies, so nothing may run again."""
    rng = random.Random(seed)
    with load(server.url, f"crash_{seed}") as processes:
        processes.start(workers=workers, enqueuers=workers)
        for number in range(crashes):
            time.sleep(rng.uniform(0.3, 1.2))
            (server.kill if number % 2 else server.stop_at_once)()
            time.sleep(rng.uniform(0.0, 0.3))
            server.start()
        time.sleep(0.2)
        return processes.end()


def killed(url: str, schema: str, kills: int, seed: int, *, workers: int = 4) -> Figures:
    """Kill workers so often."""
    rng = random.Random(seed)
    with load(url, schema, lease=LEASE) as processes:
        processes.start(workers=workers, enqueuers=1)
        for _ in range(kills):
            time.sleep(rng.uniform(0.05, 0.4))
            processes.kill_one(rng)
        return processes.end()


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--crashes", type=int, default=0)
    options.add_argument("--kills", type=int, default=0)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    began = time.monotonic()
    with own_server() as server:
        if chosen.crashes:
            figures = crashed(server, chosen.crashes, chosen.seed)
            _tell(figures, f"{chosen.crashes} crashes", began)
            figures.check(once=True)
        if chosen.kills:
            figures = killed(server.url, f"kills_{chosen.seed}", chosen.kills, chosen.seed)
            _tell(figures, f"{chosen.kills} kills", began)
            figures.check(once=False)


def _tell(figures: Figures, what: str, began: float) -> None:
    found = ", ".join(f"{name} {value}" for name, value in asdict(figures).items())
    print(f"{what} in {time.monotonic() - began:.0f} s: {found}", flush=True)


if __name__ == "__main__":
    main()

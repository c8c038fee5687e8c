"""Decides who plays, who dies, and where."""

from __future__ import annotations

import random
import signal
import sqlite3
import time
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sitq.backends.sqlite.connect import Database

from . import journal
from .verdict import Moments
from .zygote import PATIENCE, Event, Zygote

LONGEST_CYCLE = 0.2
"""Seconds of one cycle at the most."""
LEASE = 0.6
SLOTS = 6
"""Tasks that a worker runs at a time."""
ENQUEUERS = 2
AIMED = 0.75
"""How many of the processes have a failpoint; the others wait for a kill at a random moment."""
STOPS = 0.1
"""How many of the workers stop in good order, if nobody kills them before."""
STALLS = 0.15
"""In how many of the cycles a worker is stopped, for up to two leases."""
CREATES = 0.4
"""In how many of the cycles a database is created beside."""

POINTS: dict[str, dict[str, int]] = {
    # The failpoints of each role, and the longest countdown of each.
    "worker": {
        "reserving": 40,
        "reserved": 20,
        "running": 40,
        "ran": 40,
        "settling": 60,
        "turning": 40,
        "keeping": 3,
        "recovering": 60,
        "taking": 12,
        "hiring": 2,
        "beating": 12,
    },
    "enqueuer": {"inserting": 40, "inserted": 10, "cancelling": 10, "reviving": 8},
    "pruner": {"pruning": 200},
    "migrator": {"migrating": 24},
}


@dataclass(slots=True)
class Slot:
    """A place for one process after the other."""

    name: str
    role: str
    pid: int = 0
    aimed: bool = False
    """Whether the process has a failpoint."""
    died: float = 0.0
    """When it was killed, if it was."""
    point: str = "random"
    """Where it was killed."""
    generation: int = 0
    side: int = 0
    """Which database a migrator creates next."""


class Director:
    """Starts processes, kills them, and starts them again.

    Args:
        zygote: has the processes.
        path: of the database.
        folder: of the journals.
        workers: how many.
        loops: of the processes.
        rng: decides who dies where.
    """

    def __init__(
        self,
        zygote: Zygote,
        path: Path,
        folder: Path,
        workers: int,
        loops: tuple[str, ...],
        rng: random.Random,
    ) -> None:
        self.violations: list[str] = []
        self.kills: Counter[str] = Counter()
        """By failpoint; those at a moment drawn by us are ``random``."""
        self.killed: Moments = defaultdict(list)
        self.stalled: Moments = defaultdict(list)
        """When a process was stopped for a while."""
        self.databases = 0
        """Created beside, by processes that were killed at it, and checked."""
        self._zygote = zygote
        self._path = path
        self._folder = folder
        self._loops = loops
        self._rng = rng
        self._stalls: dict[int, float] = {}
        """When a stopped process goes on."""
        self._slots = [
            *(Slot(f"w{n}", "worker") for n in range(workers)),
            *(Slot(f"e{n}", "enqueuer") for n in range(ENQUEUERS)),
            Slot("p0", "pruner"),
            Slot("m0", "migrator"),
        ]
        with closing(Database(":memory:", "FULL", 1.0).create()) as connection:
            self._schema = _schema(connection)

    def create(self) -> None:
        """Create the database, by processes that are killed at it, and let it write a journal."""
        killed = True
        while killed:
            killed = self._run("migrator", "first", self._aim("migrator")) == -signal.SIGKILL
        journal.install(self._path)

    def cycle(self) -> None:
        """Let one process die at least, and start again whatever is dead."""
        for slot in self._slots:
            if not slot.pid and (slot.role != "migrator" or self._rng.random() < CREATES):
                self._start(slot)
        self._stall()
        until = time.monotonic() + self._rng.uniform(0, LONGEST_CYCLE)
        deaths = 0
        while (left := until - time.monotonic()) > 0:
            deaths += self._hear(left)
        while not deaths:  # who is to be killed may come to a good end before
            victim = self._victim()
            self._kill(victim)
            deaths += self._bury(victim)

    def _stall(self) -> None:
        """Let those go on whose time has come, and stop a worker now and then."""
        now = time.monotonic()
        for pid in [pid for pid, until in self._stalls.items() if until <= now]:
            self._zygote.signal(pid, signal.SIGCONT)
            del self._stalls[pid]
        if self._rng.random() < STALLS:
            slot = self._rng.choice([slot for slot in self._slots if slot.role == "worker"])
            self._zygote.signal(slot.pid, signal.SIGSTOP)
            self._stalls[slot.pid] = now + self._rng.uniform(0, 2 * LEASE)
            self.stalled[slot.pid].append(time.time())

    def _victim(self) -> Slot:
        """Somebody who does not wait for a failpoint, if there is one."""
        living = [slot for slot in self._slots if slot.pid]
        return self._rng.choice([slot for slot in living if not slot.aimed] or living)

    def finish(self) -> None:
        """Kill all at once; then let everything that was begun be done."""
        living = [slot for slot in self._slots if slot.pid]
        for slot in living:
            self._kill(slot)
        for slot in living:
            self._bury(slot)
        for slot in self._slots:
            if slot.role == "enqueuer":
                slot.generation += 1
                self._finish(slot.role, slot.name, generation=slot.generation, only_repeat=True)
        self._finish("drainer", "drain", slots=SLOTS, lease=LEASE)
        self._check_sides()

    def _start(self, slot: Slot) -> None:
        slot.generation += 1
        slot.point = "random"
        part = self._aim(slot.role)
        slot.aimed = bool(part)
        options: dict[str, Any] = {}
        if slot.role == "worker":
            options = {"slots": SLOTS, "lease": LEASE}
            if self._rng.random() < STOPS:
                options["stop_after"] = self._rng.uniform(0, 1)
        if slot.role == "enqueuer":
            options["generation"] = slot.generation
        if slot.role == "migrator":
            part["path"] = str(self._side(slot.side))
        slot.pid = self._spawn(slot.role, slot.name, part, options)

    def _aim(self, role: str) -> dict[str, Any]:
        if self._rng.random() >= AIMED:
            return {}
        point, longest = self._rng.choice(list(POINTS[role].items()))
        return {"point": point, "countdown": self._rng.randint(1, longest)}

    def _spawn(self, role: str, name: str, part: dict[str, Any], options: dict[str, Any]) -> int:
        common = {
            "path": str(self._path),
            "folder": str(self._folder),
            "slot": name,
            "loop": self._rng.choice(self._loops),
            "seed": self._rng.getrandbits(32),
        }
        return self._zygote.spawn(role, part=common | part, **options)

    def _kill(self, slot: Slot) -> None:
        slot.died = time.time()
        self._zygote.signal(slot.pid, signal.SIGKILL)

    def _bury(self, slot: Slot) -> int:
        """Listen until a process has ended. Returns how many were killed meanwhile."""
        deaths = 0
        while slot.pid:
            deaths += self._hear(PATIENCE)
        return deaths

    def _hear(self, timeout: float) -> bool:
        """Take note of what happens next. True if a process was killed."""
        event = self._zygote.next(timeout)
        if event is not None:
            for slot in self._slots:
                if slot.pid == event.pid:
                    return self._note(slot, event)
        return False

    def _note(self, slot: Slot, event: Event) -> bool:
        if event.kind == "said" and isinstance(event.detail, dict):  # its last words
            slot.point, slot.died = event.detail["dies"], event.detail["at"]
        if event.kind != "dead":
            return False
        slot.pid = 0
        if event.detail == -signal.SIGKILL:
            self.kills[slot.point] += 1
            self.killed[event.pid].append(slot.died)
            return True
        if event.detail != 0 or slot.role in ("enqueuer", "pruner"):
            self.violations.append(f"{slot} ended with {event.detail}")
        slot.side += slot.role == "migrator"
        return False

    def _run(self, role: str, name: str, part: dict[str, Any], **options: Any) -> int:
        """Let a process play to its end. Returns its exit code."""
        pid = self._spawn(role, name, part, options)
        try:
            return self._zygote.wait("dead", pid).detail
        except TimeoutError:
            self.violations.append(f"{role} {name} did not end; errors.txt says where it was")
            self._zygote.signal(pid, signal.SIGABRT)
            return self._zygote.wait("dead", pid).detail

    def _finish(self, role: str, name: str, **options: Any) -> None:
        code = self._run(role, name, {}, **options)
        if code != 0:
            self.violations.append(f"{role} {name} ended with {code}, with nobody to disturb it")

    def _side(self, number: int) -> Path:
        return self._folder / f"side{number}.db"

    def _check_sides(self) -> None:
        """What was created while its creators were killed is a whole database each time."""
        [slot] = [slot for slot in self._slots if slot.role == "migrator"]
        for number in range(slot.side + 1):
            path = self._side(number)
            if self._run("migrator", "last", {"path": str(path)}) != 0:
                self.violations.append(f"{path} cannot be opened")
            with closing(sqlite3.connect(path)) as connection:
                damage = connection.execute("PRAGMA integrity_check").fetchall()
                if damage != [("ok",)] or _schema(connection) != self._schema:
                    self.violations.append(f"{path} is not as it must be: {damage}")
            path.unlink()
        self.databases = slot.side + 1


def _schema(connection: sqlite3.Connection) -> list[Any]:
    return connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()

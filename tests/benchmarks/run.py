"""How fast is sitq: beside what the machine allows, and beside other queues?

    pip install -e '.[bench]'
    python tests/benchmarks/run.py --json figures.json

Every figure is the median of the runs, five by default. The contestants of a contest take turns:
one run of each, then the next run of each, every measurement in a process of its own with a file
of its own. A ratio is the median of the ratios within the runs. What is demanded stands beside
what was reached.

``--only`` names contests (``--list`` prints them), ``--loops`` event loops, and ``--quick`` does
so little work that its figures mean nothing. Peers that are not installed are left out, and so
are those that need Redis where no ``redis-server`` is on PATH. PostgreSQL is started from a wheel,
or SITQ_TEST_POSTGRES names a server, with a role that may create databases and set what they are
set to. The whole takes more than an hour.
It exits with 1 when a measurement failed; a demand that is not met is no failure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

if __package__ in (None, ""):  # run as a program: the tests are not on the path
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import server
from tests.benchmarks.contest import Contest, Outcome, hold
from tests.benchmarks.contestants import absent_peers
from tests.benchmarks.machine import facts, version_of
from tests.benchmarks.programme import contests
from tests.benchmarks.report import document, print_facts, print_outcome, print_reach, write
from tests.benchmarks.setting import LOOPS
from tests.benchmarks.sizes import QUICK, USUAL

__all__ = ["main"]

PACKAGE_OF_LOOP = {"trio": "trio", "uvloop": "uvloop"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [contest.name for contest in contests("asyncio", USUAL)]
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help="these contests")
    parser.add_argument("--runs", type=int, default=5, help="runs of each measurement")
    parser.add_argument("--loops", default=",".join(LOOPS), help="asyncio,uvloop,trio")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all figures")
    parser.add_argument("--folder", help="where the files are made; default: the system's folder")
    parser.add_argument("--quick", action="store_true", help="see whether everything still works")
    parser.add_argument("--list", action="store_true", help="print the names of the contests")
    return parser


def _loops(wanted: str, parser: argparse.ArgumentParser) -> list[str]:
    loops = wanted.split(",")
    for loop in loops:
        if loop not in LOOPS:
            parser.error(f"there is no event loop {loop!r}; there are {', '.join(LOOPS)}")
    return loops


def _is_installed(loop: str) -> bool:
    return loop not in PACKAGE_OF_LOOP or version_of(PACKAGE_OF_LOOP[loop]) is not None


def _wanted(loops: list[str], options: argparse.Namespace) -> Iterator[tuple[str, Contest]]:
    sizes = QUICK if options.quick else USUAL
    for loop in filter(_is_installed, loops):
        for contest in contests(loop, sizes):
            is_wanted = options.only is None or contest.name in options.only
            if is_wanted and (server.is_there() or not contest.on_postgres):
                yield loop, contest


def main() -> int:
    """The program. Returns its exit code."""
    parser = _parser()
    options = parser.parse_args()
    loops = _loops(options.loops, parser)
    if options.list:
        print(
            *(f"{contest.name:16} {contest.title}" for _, contest in _wanted(loops[:1], options)),
            sep="\n",
        )
        return 0
    try:
        outcomes = _hold_all(loops, options)
    finally:
        server.stop()
    return int(any(outcome.failures for outcome in outcomes))


def _hold_all(loops: list[str], options: argparse.Namespace) -> list[Outcome]:
    absent = absent_peers()
    absent += [f"{loop}: not installed" for loop in loops if not _is_installed(loop)]
    machine = facts(options.folder, (QUICK if options.quick else USUAL).syncs)
    sync_ms = machine["fdatasync_ms"]
    settings = {"runs": options.runs, "loops": loops, "quick": options.quick}
    wanted = list(_wanted(loops, options))
    if any(contest.on_postgres for _, contest in wanted):
        machine["postgresql"] = server.facts(options.folder)
    print_facts(machine, absent)
    outcomes: list[Outcome] = []
    for loop, contest in wanted:
        outcomes.append(hold(contest, loop, options.runs, options.folder))
        print_outcome(outcomes[-1], sync_ms)
        if options.json is not None:  # after each, so that nothing is lost when it is interrupted
            write(options.json, document(machine, absent, outcomes, settings))
    print_reach(outcomes, sync_ms)
    return outcomes


if __name__ == "__main__":
    sys.exit(main())

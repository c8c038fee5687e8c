"""Draws what `watch` shows in a terminal. Pure: nothing but what it is given goes in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from sitq.cli.output import table
from sitq.cli.records import WORKER, WORKER_OPTIONAL, is_lapsed, progress, when, worker_row
from sitq.cli.snapshot import View
from sitq.cli.text import bar, cut, number
from sitq.model import State

__all__ = ["draw", "line"]

MOST_RUNNING = 20
"""Running tasks that are shown."""
LINES = 9
"""Of the screen, that are neither a running task nor a worker."""
RUNNING = ("id", "name", "queue", "when", "attempts", "progress")
RUNNING_OPTIONAL = ("attempts", "queue", "name", "when")


def line(view: View) -> str:
    """All of it in one line, for what is no terminal."""
    lapsed = sum(map(is_lapsed, view.snapshot.workers))
    return "  ".join(
        [
            f"{view.at:%Y-%m-%d %H:%M:%S} UTC",
            *_counts(view),
            f"workers {len(view.snapshot.workers)}",
            *([f"lapsed {lapsed}"] if lapsed else []),
            *([f"({cut(view.trouble, 200)})"] if view.trouble else []),
        ]
    )


def draw(view: View, width: int, height: int) -> RenderableType:
    """The screen: as many lines as there is room for, each within the width."""
    room = max(0, height - 1 - LINES)
    workers = min(len(view.snapshot.workers), -(-room // 3))
    running = min(len(view.snapshot.running), MOST_RUNNING, room - workers)
    return Group(
        *_head(view, width), *_running(view, width, running), *_workers(view, width, workers)
    )


def _head(view: View, width: int) -> Iterator[RenderableType]:
    trouble = "" if view.trouble is None else f"  no answer: {view.trouble}"
    yield _line(f"{view.at:%H:%M:%S} UTC  {view.place}{trouble}", "red" if trouble else "bold")
    yield _line("  ".join(_counts(view)))
    whole = view.ended + view.snapshot.live
    drawn = bar(view.share, max(10, min(40, width - 40)))
    yield _line(f"{drawn}  {view.ended} of {whole} ended since the start")


def _counts(view: View) -> list[str]:
    rate = "" if view.rate is None else f" ({number(view.rate)}/s)"
    counts = [f"{state} {view.snapshot.counts[state]}" for state in State]
    return [*counts, f"ended {view.ended}{rate}"]


def _running(view: View, width: int, most: int) -> Iterator[RenderableType]:
    rows = [
        (t.id, t.name, t.queue, when(t, view.at), t.attempts, progress(t.progress))
        for t in view.snapshot.running[:most]
    ]
    count = view.snapshot.counts[State.RUNNING]
    newest = f", the newest {most}" if most < count else ""
    yield from _table(f"running: {count}{newest}", RUNNING, rows, RUNNING_OPTIONAL, width)


def _workers(view: View, width: int, most: int) -> Iterator[RenderableType]:
    # The lapsed ones are what one has to see.
    found = sorted(view.snapshot.workers, key=lambda worker: (not is_lapsed(worker), worker.id))
    rows = [worker_row(worker, view.at) for worker in found[:most]]
    more = f", {most} of them" if most < len(found) else ""
    yield from _table(f"workers: {len(found)}{more}", WORKER, rows, WORKER_OPTIONAL, width)


def _table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    optional: Sequence[str],
    width: int,
) -> Iterator[RenderableType]:
    yield _line("")
    yield _line(title, "bold")
    if rows:
        yield table(columns, rows, width, optional=optional, one_line=True)


def _line(text: str, style: str = "") -> Text:
    return Text(cut(text, 1_000), style=style, no_wrap=True, overflow="ellipsis")

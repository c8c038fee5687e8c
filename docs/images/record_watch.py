"""Records `sitq watch` beside real workers, as a picture that moves: ``python record_watch.py``.

It writes ``watch.svg`` beside itself. Each frame is what `sitq watch` draws of the store at that
moment, and the frames follow each other as they did.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import anyio
from rich.console import Console

from sitq import Retry, SQLiteBackend, TaskQueue, current_task, task
from sitq.cli.drawing import draw
from sitq.cli.snapshot import History, View, look

HERE = Path(__file__)
WIDTH, HEIGHT = 116, 24
FRAMES, PAUSE = 16, 0.8
"""How many, and the seconds between two."""
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""It is loaded from elsewhere, which a picture in a page cannot do."""


@task(queue="mail", retry=Retry(attempts=5, base=0.2))
async def send(number: int) -> int:
    """A short one, which fails now and then."""
    await anyio.sleep(0.05 + number % 7 / 50)
    if number % 11 == 0 and current_task().attempt == 1:
        raise ConnectionError("the mail server is busy")
    return number


@task(queue="video")
async def convert(name: str, frames: int) -> str:
    """A long one, which tells how far it is."""
    for done in range(frames):
        current_task().progress(done, frames, name)
        await anyio.sleep(0.02)
    return name


async def record(folder: Path) -> list[str]:
    """The frames of a run, each as a picture."""
    backend = SQLiteBackend(folder / "shop.db")
    async with TaskQueue(backend) as queue:
        names = ("lake", "river", "sea", "rain", "snow")
        films = [convert.call(f"{name}.mp4", 180 + 70 * n) for n, name in enumerate(names)]
        await queue.enqueue_many([*films, *(send.call(number) for number in range(900))])
        history = History()
        frames: list[str] = []
        for _ in range(FRAMES):
            snapshot = await look(queue)
            history.add(time.monotonic(), snapshot.counts)
            view = View(datetime.now(UTC), "shop.db", snapshot, history.rate, history.ended)
            frames.append(picture(view, len(frames)))
            await anyio.sleep(PAUSE)
    return frames


def picture(view: View, number: int) -> str:
    """What `sitq watch` draws, as SVG, with names that no other frame has."""
    console = Console(record=True, width=WIDTH, height=HEIGHT, file=StringIO(), force_terminal=True)
    console.print(draw(view, WIDTH, HEIGHT))
    for _ in range(HEIGHT - len(console.export_text(clear=False).splitlines())):
        console.print()  # so that all have the same height
    return console.export_svg(title="sitq watch", unique_id=f"frame{number}")


def moving(frames: list[str]) -> str:
    """One picture that shows these one after the other, again and again."""
    seconds, until = len(frames) * PAUSE, f"{100 / len(frames):.3f}%"
    styles = [
        f".frame {{ visibility: hidden; animation: shown {seconds}s step-end infinite; }}",
        f"@keyframes shown {{ 0% {{ visibility: visible; }} {until} {{ visibility: hidden; }} }}",
    ]
    groups: list[str] = []
    for number, frame in enumerate(frames):
        head, style, body = re.split("</?style>", frame)
        styles.append(FONT.sub("", style))
        drawn = body.rpartition("</svg>")[0]
        groups.append(f'<g class="frame" style="animation-delay: {number * PAUSE}s">{drawn}</g>')
    return "\n".join([head, "<style>", *styles, "</style>", *groups, "</svg>\n"])


def main() -> None:
    """Run workers, record, and write the picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "sitq", "worker", HERE.stem, "--processes=2"]
        options = [f"--backend={folder / 'shop.db'}", "--concurrency=6", "--log-level=error"]
        environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
        with subprocess.Popen([*command, *options], env=environment, cwd=folder) as workers:
            try:
                frames = anyio.run(record, folder)
            finally:
                workers.send_signal(signal.SIGTERM)
    HERE.with_name("watch.svg").write_text(moving(frames), encoding="utf-8")


if __name__ == "__main__":
    main()

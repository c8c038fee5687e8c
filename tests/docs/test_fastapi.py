"""The FastAPI example, served by uvicorn: with a worker in it, and with one apart."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import UUID

import anyio
import pytest

from sitq import SQLiteBackend, State, TaskQueue

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 30.0

Started = subprocess.Popen[str]


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = filter(None, [os.environ.get("PYTHONPATH"), str(EXAMPLES)])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("TASKS_URL", f"sqlite:///{tmp_path}/tasks.db")


@contextmanager
def started(folder: Path, *command: str) -> Iterator[Started]:
    with subprocess.Popen(
        [sys.executable, "-W", "error", *command],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def served(folder: Path) -> Iterator[tuple[Started, str]]:
    """The application, and its address."""
    with started(folder, "-m", "uvicorn", "fastapi_app:app", "--port", "0") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"running on (http://\S+)", line):
                yield process, found[1]
                return
        raise AssertionError(f"uvicorn ended: {process.wait()}")


def answer(url: str, method: str = "GET") -> dict[str, Any]:
    with urlopen(Request(url, method=method), timeout=PATIENCE) as response:
        return json.load(response)


def stop(process: Started) -> tuple[int, str]:
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors


def left(folder: Path) -> tuple[list[State], int]:
    """The states of all tasks, and how many workers have not said that they are gone."""

    async def look() -> tuple[list[State], int]:
        async with TaskQueue(SQLiteBackend(folder / "tasks.db")) as queue:
            return [task.state for task in await queue.find()], len(await queue.workers())

    return anyio.run(look)


def test_with_a_worker_in_the_application(tmp_path: Path) -> None:
    with served(tmp_path) as (process, url):
        id = answer(f"{url}/welcomes/Ada", "POST")["id"]
        told = answer(f"{url}/welcomes/{id}?wait=20")
        assert told == {"state": "succeeded", "text": "Welcome, Ada!"}
        for unknown, status in ((UUID(int=0), 404), ("no-id", 422)):
            with pytest.raises(HTTPError) as caught:
                answer(f"{url}/welcomes/{unknown}")
            assert caught.value.code == status
            caught.value.close()
        for number in range(10):
            answer(f"{url}/welcomes/{number}", "POST")
        status, errors = stop(process)
    assert status == -signal.SIGTERM, errors  # uvicorn passes it on when all is done
    assert "Application shutdown complete" in errors
    assert "Traceback" not in errors
    states, workers = left(tmp_path)
    assert set(states) <= {State.SUCCEEDED, State.PENDING}
    assert workers == 0


def test_with_a_worker_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS_WORKER", "elsewhere")
    with served(tmp_path) as (process, url):
        id = answer(f"{url}/welcomes/Ada", "POST")["id"]
        assert answer(f"{url}/welcomes/{id}") == {"state": "pending", "text": None}
        with started(tmp_path, str(EXAMPLES / "fastapi_app.py")) as worker:
            told = answer(f"{url}/welcomes/{id}?wait=20")
            assert told == {"state": "succeeded", "text": "Welcome, Ada!"}
            status, errors = stop(worker)
            assert (status, errors) == (0, "")
        status, errors = stop(process)
        assert status == -signal.SIGTERM, errors
    assert left(tmp_path) == ([State.SUCCEEDED], 0)

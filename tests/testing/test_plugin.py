"""The fixtures for pytest, as a project of somebody else has them: with pytest run over it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import dedent

import pytest

from .absent import without

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "testing.md"
IS_INSTALLED = bool(entry_points(group="pytest11", name="sitq"))
"""Otherwise sitq runs from its sources, and pytest is told of the plugin."""

SHOP = """
    from contextlib import asynccontextmanager

    import anyio

    from sitq import Registry, TaskQueue, current_task, task

    registry = Registry()

    @task
    async def fetch(url: str, *, times: int = 1) -> str:
        return url * times

    @task
    async def refund(order: int) -> None:
        pass

    @registry.task
    async def secret() -> str:
        return current_task().resources

    @asynccontextmanager
    async def lifespan():
        yield "known here"

    @task
    async def forever() -> None:
        await anyio.sleep_forever()

    async def order(queue: TaskQueue) -> None:
        await queue.enqueue(fetch, "v")
        await queue.enqueue(fetch.using(queue="io"), url="w", times=2)
"""

PASSING = """
    import anyio
    import pytest

    import shop
    from sitq import TaskQueue
    from sitq.testing import run_pending

    pytestmark = pytest.mark.anyio


    async def test_what_was_enqueued(sitq_queue, sitq_backend):
        await shop.order(TaskQueue(sitq_backend))
        assert await sitq_queue.enqueued(shop.fetch, "v")
        [task] = await sitq_queue.enqueued(shop.fetch, "w", times=2)
        assert task.queue == "io"
        assert not await sitq_queue.enqueued(shop.fetch, "u")
        assert [result.value for result in await run_pending(sitq_queue)] == ["v", "ww"]


    async def test_a_worker_and_the_clock(sitq_queue, sitq_worker, sitq_clock):
        handle = await sitq_queue.enqueue(shop.fetch.using(delay=3600), "later")
        sitq_clock.travel(3600)
        assert await handle.result(timeout=30) == "later"


    async def test_a_task_that_runs_still_when_the_test_ends(sitq_queue, sitq_worker):
        handle = await sitq_queue.enqueue(shop.forever)
        while await handle.status() != "running":
            await anyio.sleep(0.001)
"""

FAILING = """
    import pytest

    import shop

    pytestmark = pytest.mark.anyio


    async def test_another_call(sitq_queue):
        await shop.order(sitq_queue)
        assert await sitq_queue.enqueued(shop.fetch, "u")


    async def test_nothing(sitq_queue):
        assert await sitq_queue.enqueued(shop.fetch, "u")


    async def test_not(sitq_queue):
        await shop.order(sitq_queue)
        assert not await sitq_queue.enqueued(shop.fetch, "w", times=2)
"""

CONFTEST = """
    import pytest

    import shop
    from sitq import SQLiteBackend

    @pytest.fixture
    def sitq_backend(sitq_clock, tmp_path):
        return SQLiteBackend(tmp_path / "tasks.db", clock=sitq_clock)

    @pytest.fixture
    def sitq_registry():
        return shop.registry

    @pytest.fixture
    def sitq_lifespan():
        return shop.lifespan
"""

OVERRIDDEN = """
    import pytest

    import shop

    @pytest.mark.anyio
    async def test_a_store_and_a_registry_of_ones_own(sitq_queue, sitq_worker, tmp_path):
        handle = await sitq_queue.enqueue(shop.secret)
        assert await handle.result(timeout=30) == "known here"
        assert (tmp_path / "tasks.db").exists()
"""

UNRELATED = "def test_nothing_of_sitq():\n    assert True\n"


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(dedent(text), encoding="utf-8")


def run_pytest(folder: Path, *options: str, absent: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run the tests in a folder, where the ``absent`` modules are not installed."""
    code = f"{without(*absent)}\nimport pytest\nsys.exit(pytest.main(sys.argv[1:]))"
    plugin = () if IS_INSTALLED else ("-p", "sitq.testing.plugin")
    done = subprocess.run(
        [
            *(sys.executable, "-c", code),
            *("-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir=.", *plugin, *options),
        ],
        cwd=folder,
        env=os.environ | {"COLUMNS": "300", "PYTEST_DEBUG_TEMPROOT": str(folder)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_project_whose_tests_pass(tmp_path: Path) -> None:
    files = {"shop.py": SHOP, "test_shop.py": PASSING}
    files |= {"file/conftest.py": CONFTEST, "file/test_file.py": OVERRIDDEN}
    write(tmp_path, files)
    code, output = run_pytest(tmp_path)
    assert code == 0, output
    assert "8 passed" in output


def test_asserts_that_fail_say_what_was_enqueued(tmp_path: Path) -> None:
    write(tmp_path, {"shop.py": SHOP, "test_shop.py": FAILING})
    code, output = run_pytest(tmp_path)
    assert code == 1, output
    for text in (
        "assert no call shop.fetch('u'); enqueued were shop.fetch('v'), shop.fetch(url='w', t",
        "assert no call shop.fetch('u'); nothing was enqueued",
        "assert not 1 call shop.fetch('w', times=2), pending",
    ):
        assert output.count(f"E       AssertionError: {text}") == 2, output


def test_the_tests_of_the_how_to(tmp_path: Path) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    write(tmp_path, {"test_page.py": "\n".join(blocks)})
    code, output = run_pytest(tmp_path)
    assert code == 0, output
    assert re.search(r"\b13 passed", output), output


@pytest.mark.parametrize("options", [(), ("-p", "no:anyio")], ids=["usual", "without-anyio"])
def test_a_project_that_does_not_use_it(tmp_path: Path, options: tuple[str, ...]) -> None:
    write(tmp_path, {"test_other.py": UNRELATED})
    absent = ("hypothesis", "trio", "psycopg", "aiosqlite")
    its_plugin = ("-p", "no:hypothesispytest")  # it would not be there either
    code, output = run_pytest(tmp_path, *its_plugin, *options, absent=absent)
    assert code == 0, output
    assert "1 passed" in output


def test_loading_it_imports_nothing_that_is_slow() -> None:
    code = (
        "import sys, sitq.testing.plugin\n"
        "unwanted = {'hypothesis', 'trio', 'aiosqlite', 'psycopg', 'sitq.testing.machine'}\n"
        "print(sorted(unwanted & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

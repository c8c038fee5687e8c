"""Every async test runs on asyncio and on trio; one that leaks a thread or descriptor fails."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from . import postgres
from .leaks import nothing_left

# `--hypothesis-profile=long -o faulthandler_timeout=0` is for hours; what it finds is printed with
# a line that replays it.
settings.register_profile("default", settings(), print_blob=True)
settings.register_profile(
    "long",
    max_examples=50_000,
    stateful_step_count=100,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("default")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session", autouse=True)
def postgres_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    postgres.use_folder(shared / "postgres")


@pytest.fixture
def schema() -> Iterator[str]:
    """A schema of the test server that only the test knows."""
    with postgres.fresh_schema() as name:
        yield name


@pytest.fixture(autouse=True)
def no_leaks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with nothing_left(tmp_path_factory.getbasetemp()):
        yield


class PrintsFailures:
    """Prints each failure at once: a test that hangs later ends the run before its summary."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.write_line(f"\n{report.nodeid}, {report.when}:", red=True)
            self._terminal.write_line(report.longreprtext)
            self._terminal.flush()


@pytest.hookimpl(trylast=True)  # when there is a terminal
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        config.pluginmanager.register(PrintsFailures(terminal))

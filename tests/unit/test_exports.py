"""What the package shows: its names, its files, its errors, and what importing it costs."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from uuid import UUID

import pytest

import sitq
from sitq import Result, State, errors

PUBLIC = [
    "Call",
    "Clock",
    "CurrentTask",
    "ErrorInfo",
    "INHERIT",
    "MsgpackSerializer",
    "PostgresBackend",
    "Progress",
    "Registry",
    "Result",
    "Retry",
    "SQLiteBackend",
    "Serializer",
    "State",
    "SyncTaskQueue",
    "Task",
    "TaskFunction",
    "TaskGroup",
    "TaskHandle",
    "TaskQueue",
    "TaskTree",
    "Worker",
    "WorkerStatus",
    "backend_from_url",
    "current_task",
    "serializable",
    "task",
]
CHECKOUT = Path(__file__).parents[2]


def test_the_public_names_are_these() -> None:
    assert sitq.__all__ == PUBLIC


def test_the_package_under_test_is_the_installed_one() -> None:
    assert Path(sitq.__file__).parent != CHECKOUT / "sitq"


def test_all_is_sorted_and_without_doubles() -> None:
    assert sorted(set(sitq.__all__)) == sitq.__all__


@pytest.mark.parametrize("name", sitq.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(sitq, name)
    assert inspect.getdoc(value)
    if inspect.isclass(value):
        assert "__doc__" in vars(value)
        assert vars(value)["__doc__"]


def test_star_import() -> None:
    names: dict[str, object] = {}
    exec("from sitq import *", names)
    assert set(sitq.__all__) <= set(names)


def test_importing_it_imports_no_test_tool_no_trio_and_no_aiosqlite() -> None:
    code = (
        "import sys, sitq\n"
        "unwanted = {'trio', 'aiosqlite', 'pytest', 'hypothesis', '_pytest', 'sitq.testing'}\n"
        "print(sorted(unwanted & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("sitq", "py.typed"),
        ("sitq.backends.sqlite", "schema.sql"),
        ("sitq.backends.sqlite", "queries.sql"),
    ],
)
def test_files_of_the_package(package: str, name: str) -> None:
    file = files(package).joinpath(name)
    assert file.is_file()
    assert name == "py.typed" or file.read_text(encoding="utf-8").strip()


def test_the_version() -> None:
    assert sitq.__version__.count(".") >= 2


def test_every_error_is_listed() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert defined == set(errors.__all__)
    assert sorted(errors.__all__) == errors.__all__


RESULT = Result(
    id=UUID(int=1),
    name="f",
    queue="default",
    state=State.FAILED,
    value=None,
    error=None,
    attempts=1,
    enqueued_at=datetime(2024, 1, 1, tzinfo=UTC),
    started_at=None,
    ended_at=datetime(2024, 1, 2, tzinfo=UTC),
)


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, errors.SitqError)
    assert issubclass(kind, Exception)
    assert inspect.getdoc(kind)
    made = kind("why", RESULT) if kind is errors.TaskFailed else kind("why")
    copy = pickle.loads(pickle.dumps(made))
    assert type(copy) is kind
    assert str(copy) == str(made) == "why"
    if kind is errors.TaskFailed:
        assert copy.result == RESULT


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (errors.InvalidOption, ValueError),
        (errors.InvalidArguments, TypeError),
        (errors.NotSerializable, TypeError),
        (errors.TaskNotFound, LookupError),
        (errors.StoreFull, errors.StoreUnavailable),
        (errors.StoreReadOnly, errors.StoreUnusable),
        (errors.TaskFailed, errors.TaskError),
    ],
)
def test_errors_are_also_what_python_calls_them(
    kind: type[Exception], base: type[Exception]
) -> None:
    assert issubclass(kind, base)


@pytest.mark.parametrize("base", [errors.UsageError, errors.TaskError, errors.StoreError])
def test_an_error_has_one_who_is_at_fault(base: type[Exception]) -> None:
    others = {errors.UsageError, errors.TaskError, errors.StoreError} - {base}
    for name in errors.__all__:
        kind = getattr(errors, name)
        if issubclass(kind, base):
            assert not issubclass(kind, tuple(others))

"""The check for leaks sees one: each kind of descriptor and thread that a test may leave behind."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from ..leaks import nothing_left

in_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc here")


def pipe(stack: ExitStack, _: Path) -> None:
    for end in os.pipe():
        stack.callback(os.close, end)


def file(stack: ExitStack, folder: Path) -> None:
    stack.enter_context((folder / "file").open("w"))


def deleted_file(stack: ExitStack, folder: Path) -> None:
    file(stack, folder)
    (folder / "file").unlink()


def database(stack: ExitStack, folder: Path) -> None:
    connection = stack.enter_context(closing(sqlite3.connect(folder / "of any name")))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE one (a)")


def inotify(stack: ExitStack, _: Path) -> None:
    module = pytest.importorskip("inotify_simple", exc_type=ImportError)
    stack.enter_context(module.INotify())


def thread(stack: ExitStack, _: Path) -> None:
    end = threading.Event()
    one = threading.Thread(target=end.wait, name="sitq of this test")
    one.start()
    stack.callback(one.join)
    stack.callback(end.set)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        pytest.param(pipe, "pipe:", marks=in_proc),
        pytest.param(file, "file", marks=in_proc),
        pytest.param(deleted_file, "(deleted)", marks=in_proc),
        pytest.param(database, "-wal", marks=in_proc),
        pytest.param(inotify, "inotify", marks=in_proc),
        (thread, "sitq of this test"),
    ],
)
def test_a_leak_is_seen(kind: Callable[[ExitStack, Path], None], what: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        with pytest.raises(AssertionError) as caught, nothing_left(tmp_path, patience=0):
            kind(stack, tmp_path)
        assert what in str(caught.value)
        with nothing_left(tmp_path, patience=0):
            pass  # it was there before


def test_what_still_ends_is_no_leak(tmp_path: Path) -> None:
    end = threading.Event()
    with nothing_left(tmp_path):
        threading.Thread(target=end.wait, name="sitq of this test").start()
        threading.Timer(0.01, end.set).start()


@in_proc
def test_a_descriptor_that_took_the_number_of_another_is_seen(tmp_path: Path) -> None:
    before = os.pipe()
    stack = ExitStack()
    with stack, pytest.raises(AssertionError), nothing_left(tmp_path, patience=0):
        for end in before:
            os.close(end)
        pipe(stack, tmp_path)

"""The program of a worker, as the processes that it starts find its functions and classes."""

from __future__ import annotations

import importlib
import inspect
import io
import pickle
import runpy
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

from sitq.model import Outcome
from sitq.naming import MAIN
from sitq.registry import TaskFunction

__all__ = ["STOPS", "Answer", "Program", "Request", "dumps", "find", "loads", "this_program"]

Request: TypeAlias = tuple[str, str, bytes]
"""What a process is to call: module and qualified name of a function, and its arguments."""
Answer: TypeAlias = tuple[bytes, Outcome | None]
"""What it returned, or how it failed."""

STOPS = frozenset(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)
"""Signals that stop a worker. They can reach its processes as well, which end with it, or when it
ends them."""


class Program(NamedTuple):
    """What was started, and how to import it."""

    module: str | None
    """The main module, if it was started by ``python -m``."""
    path: str | None
    """Its file."""
    argv: list[str]


def this_program() -> Program:
    """The program that runs here."""
    main = sys.modules["__main__"]
    module = getattr(getattr(main, "__spec__", None), "name", None)
    return Program(
        None if module in MAIN else module,
        getattr(main, "__file__", None),
        sys.argv,
    )


def find(module: str, qualname: str, program: Program) -> Callable[..., Any]:
    """The function that was registered under this qualified name in this module."""
    found: Any = sys.modules["__main__" if _is_main(module, program) else _imported(module)]
    for name in qualname.split("."):
        found = getattr(found, name)
    inner = inspect.unwrap(found, stop=lambda wrapper: isinstance(wrapper, TaskFunction))
    return inner.function if isinstance(inner, TaskFunction) else found


def dumps(value: object) -> bytes:
    """A value on its way to another process of this program."""
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def loads(data: bytes, program: Program | None = None) -> Any:
    """A value that came from another process of this program, with classes of its main module.

    Args:
        data: what `dumps` made.
        program: imported when a class of its main module is met; None, if that runs here.
    """
    return _Unpickler(data, program).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, program: Program | None) -> None:
        super().__init__(io.BytesIO(data))
        self._program = program

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        module = "__main__" if _is_main(module_name, self._program) else module_name
        return super().find_class(module, global_name)


def _imported(module: str) -> str:
    importlib.import_module(module)
    return module


def _is_main(module: str, program: Program | None) -> bool:
    """Whether it is the main module of the program, which then is there as ``__main__``."""
    if module not in MAIN:
        return False
    if program is not None and sys.modules["__main__"].__name__ != MAIN[1]:
        main = ModuleType(MAIN[1])
        main.__dict__.update(_run(program))
        for name in MAIN:
            sys.modules[name] = main
    return True


def _run(program: Program) -> dict[str, Any]:
    """Run the main module under its other name, as ``multiprocessing`` does."""
    if program.module is not None:
        return runpy.run_module(program.module, run_name=MAIN[1], alter_sys=True)
    if program.path is not None:
        return runpy.run_path(program.path, run_name=MAIN[1])
    raise ModuleNotFoundError("the program of the worker is no file that could be imported")

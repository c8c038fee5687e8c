"""Finds the application that an operator names: the only thing that a command ever imports."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn, TypeGuard, TypeVar, cast

import typer

from sitq.cli.store import WRONG
from sitq.failure import describe, summary
from sitq.naming import shown
from sitq.registry import Registry, TaskFunction, default_registry
from sitq.worker import Worker

__all__ = ["NoApplication", "load", "registry_of", "told"]

T = TypeVar("T")

_NAMES = r"\w+(?:\.\w+)*"
_APP = re.compile(rf"({_NAMES})(?::({_NAMES}))?")


class NoApplication(typer.TyperException):
    """What was named is no application, or cannot be imported."""

    exit_code = WRONG


def load(app: str) -> Registry | Worker:
    """Import what is named, with the current folder first on the path.

    Args:
        app: ``module``, whose import registers functions with ``@task``, or ``module:name`` of a
            `Registry`, a `Worker`, or a function without arguments that returns a `Worker`.

    Returns:
        A registry with a function in it at least, or a worker that knows one.

    Raises:
        NoApplication: it cannot be had. The message is one line.
    """
    match = _APP.fullmatch(app)
    if match is None:
        raise NoApplication(f"APP is module or module:name, such as shop.tasks: {shown(app)}")
    module_name, name = match.groups()
    folder = os.getcwd()
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    module = _imported(module_name)
    found = default_registry if name is None else _named(module, app, name)
    if not registry_in(found):
        _refuse_empty(module, app)
    return found


def registry_of(app: str) -> Registry:
    """The task functions of an application.

    Raises:
        NoApplication: it cannot be had. The message is one line.
    """
    return registry_in(load(app))


def registry_in(found: Registry | Worker) -> Registry:
    """The task functions of what was loaded."""
    return found.registry if isinstance(found, Worker) else found


def told(error: BaseException) -> str:
    """One line about an error of code that is not ours: what it is, and where it was raised.

    Of a group it is the first that is no group itself.
    """
    if isinstance(error, BaseExceptionGroup):
        return told(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    return f"{summary(describe(error))}{_innermost(error)}"


def _imported(name: str) -> ModuleType:
    try:
        return _attempted(f"cannot import {name}", lambda: importlib.import_module(name))
    except ModuleNotFoundError as error:
        advice = ""
        if name.endswith(".py") or os.path.exists(f"{name}.py"):
            advice = f"; a module is named without its .py: {name.removesuffix('.py')}"
        raise NoApplication(f"there is no module {error.name}{advice}") from None


def _named(module: ModuleType, app: str, name: str) -> Registry | Worker:
    found: object = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise NoApplication(f"{module.__name__} has no {name!r}") from None
    if _is_factory(found):
        found = _made(found, app)
    if isinstance(found, (Registry, Worker)):
        return found
    raise NoApplication(
        f"{app} is neither a Registry, nor a Worker, nor a function that returns a Worker: "
        f"{shown(found)}"
    )


def _is_factory(found: object) -> TypeGuard[Callable[..., object]]:
    if isinstance(found, TaskFunction | type) or inspect.iscoroutinefunction(found):
        return False
    return callable(found)


def _made(function: Callable[..., object], app: str) -> object:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError) as error:
        raise NoApplication(f"{app} is to be called without arguments: {error}") from None
    return _attempted(f"cannot call {app}", function)


def _attempted(what: str, function: Callable[[], T]) -> T:
    """What the function returns. An error of code that is not ours becomes one line.

    Raises:
        ModuleNotFoundError: the module that is to be imported is not there itself.
        NoApplication: anything else went wrong.
    """
    try:
        return function()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and not _innermost(error):
            raise
        raise NoApplication(f"{what}: {told(error)}") from None


def _innermost(error: BaseException) -> str:
    """The file and line where it was raised; nothing if that is here, or in Python's import."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f" ({_shortest(error.filename)}, line {error.lineno})"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith("<frozen ") and frame.filename not in _OURS:
            return f" ({_shortest(frame.filename)}, line {frame.lineno})"
    return ""


def _shortest(path: str) -> str:
    return path.removeprefix(f"{os.getcwd()}{os.sep}")


def _refuse_empty(module: ModuleType, app: str) -> NoReturn:
    known = [
        f"{module.__name__}:{name}"
        for name, value in vars(module).items()
        if isinstance(value, Registry | Worker) and registry_in(value)
    ]
    advice = f"; did you mean {' or '.join(known)}?" if known else "; decorate one with @task"
    raise NoApplication(f"{app} registers no task function{advice}")


_OURS = (__file__, importlib.__file__)

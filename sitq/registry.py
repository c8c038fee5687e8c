"""Task functions: declared with ``@task``, found again by name, called with checked arguments."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import FunctionType
from typing import Any, Final, Generic, Literal, ParamSpec, Protocol, Self, TypeVar, cast, overload

from sitq.errors import InvalidArguments, InvalidOption, NotRegistered, RegistrationRefused
from sitq.naming import importable_module_name, is_importable
from sitq.options import (
    UNCHANGED,
    Executor,
    Options,
    check_child,
    check_connection,
    check_executor,
    check_key,
    check_moment,
    check_name,
    check_priority,
    check_retry,
    check_seconds,
    check_timeout,
)
from sitq.retry import Retry

__all__ = [
    "AsyncTaskFunction",
    "Call",
    "Registry",
    "SyncTaskFunction",
    "TaskFunction",
    "check_registered",
    "default_registry",
    "task",
]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class TaskFunction(Generic[P, R_co]):
    """A registered function. Calling it just calls it; enqueueing it stores a call.

    Attributes:
        name: under which workers find it.
        function: the function itself.
        options: how its calls are stored and run.
        is_async: whether it is a coroutine function.
    """

    is_async: bool

    def __init__(self, name: str, function: Callable[..., Any], options: Options) -> None:
        # The function's own attributes stay with it: one named "call" would hide the method.
        functools.update_wrapper(cast("Any", self), function, updated=())
        self.name: str = name
        self.function: Callable[..., Any] = function
        self.options: Options = options
        self._signature = inspect.signature(function)
        self._least, self._most = _positional_range(self._signature)
        self._free = _free_names(self._signature)

    def __repr__(self) -> str:
        return f"<task {self.name}>"

    def using(
        self,
        *,
        delay: float | None = None,
        run_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        key: str | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        deadline: datetime | None = None,
        child: str | None = None,
        connection: object | None = UNCHANGED,
    ) -> Self:
        """A copy of this function whose calls have these options; None leaves one as it is.

        Args:
            delay: seconds to wait before the task may run.
            run_at: the moment before which it may not run; with a time zone.
            priority: -100 to 100; higher ones start first.
            queue: the name of the queue.
            key: a unique key: at most one live task has it.
            timeout: seconds that one run may take; `math.inf` for no limit.
            retry: when to run it again after a failure.
            deadline: the moment at which it fails if it has not finished; with a time zone.
            child: tells it from the other tasks of its group when its parent runs again; default:
                its place among them.
            connection: of yours to the database of the queue, with an open transaction: the task is
                stored in that, and committed or rolled back with your rows. None: without one, as
                is the default. A `sitq.SQLiteBackend` takes those of ``sqlite3`` and ``aiosqlite``,
                a `sitq.PostgresBackend` those of ``psycopg``.

        Raises:
            InvalidOption: a value is outside what the option takes.

        Example:
            ``await queue.enqueue(fetch.using(delay=30, key="once"), "https://example.org")``
        """
        if (delay if delay is not None else self.options.delay) is not None and (
            run_at if run_at is not None else self.options.run_at
        ) is not None:
            raise InvalidOption("delay and run_at exclude each other; give one of them")
        given: dict[str, Any] = {
            "delay": delay if delay is None else check_seconds("delay", delay),
            "run_at": run_at if run_at is None else check_moment("run_at", run_at),
            "priority": priority if priority is None else check_priority(priority),
            "queue": queue if queue is None else check_name("queue", queue),
            "key": key if key is None else check_key(key),
            "call_timeout": timeout if timeout is None else check_timeout(timeout),
            "call_retry": check_retry(retry),
            "deadline": deadline if deadline is None else check_moment("deadline", deadline),
            "child": child if child is None else check_child(child),
        }
        given = {option: value for option, value in given.items() if value is not None}
        if connection is not UNCHANGED:
            given["connection"] = check_connection(connection)
        made = copy.copy(self)
        made.options = replace(self.options, **given)
        return made

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """A call with these arguments, for ``queue.enqueue_many``.

        Raises:
            InvalidArguments: they do not fit the signature.
        """
        self.check(args, kwargs)
        return Call(cast("TaskFunction[..., R_co]", self), args, kwargs)

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Check arguments against the signature.

        Raises:
            InvalidArguments: they do not fit.
        """
        if not kwargs and self._least <= len(args) <= self._most:
            return  # the usual call; `bind` takes ten times as long
        # `bind` refuses these on some versions of Python; the call itself takes them.
        bound = {key: kwargs[key] for key in kwargs if key not in self._free}
        try:
            self._signature.bind(*args, **bound)
        except TypeError as error:
            raise InvalidArguments(f"{self.function.__name__}() {error}") from None


class AsyncTaskFunction(TaskFunction[P, R_co]):
    """A registered coroutine function: it runs on the event loop of the worker."""

    is_async = True

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        return self.function(*args, **kwargs)


class SyncTaskFunction(TaskFunction[P, R_co]):
    """A registered plain function: it runs in a thread or in a process of the worker."""

    is_async = False

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        return self.function(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Call(Generic[R_co]):
    """A task function with its arguments, bound by ``function.call(...)``.

    Attributes:
        function: the task function, or a copy with options.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """

    function: TaskFunction[..., R_co]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class _Decorator(Protocol):
    # A coroutine function is a plain function too; the first overload that fits is taken.
    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTaskFunction[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> SyncTaskFunction[P, R]: ...


class Registry:
    """Task functions by name. Workers call only what is in theirs.

    ``name in registry``, ``len(registry)`` and iterating over it speak of the names.

    Example:
        ``registry = Registry()``, then ``@registry.task`` above a function, and
        ``Worker(backend, registry=registry)``.
    """

    def __init__(self) -> None:
        self._functions: dict[str, TaskFunction[..., Any]] = {}

    @overload
    def task(  # pyright: ignore[reportOverlappingOverload]
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTaskFunction[P, R]: ...
    @overload
    def task(self, fn: Callable[P, R], /) -> SyncTaskFunction[P, R]: ...
    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        retry: Retry | None = None,
        timeout: float | None = None,
        priority: int = 0,
        executor: Literal["thread", "process"] | None = None,
    ) -> _Decorator: ...
    def task(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        retry: Retry | None = None,
        timeout: float | None = None,
        priority: int = 0,
        executor: Literal["thread", "process"] | None = None,
    ) -> Any:
        """Register a function, as ``@task`` or ``@task(...)``.

        Args:
            fn: a function of a module; coroutine functions run on the loop, others in threads.
            name: under which workers find it; default: its module and qualified name.
            queue: the queue of its calls.
            retry: when to run it again after a failure; default: never.
            timeout: seconds that one run may take; None for no limit.
            priority: of its calls, -100 to 100; higher ones start first.
            executor: of a plain function: a ``"thread"`` of the worker, the default, or a
                ``"process"`` of its own, which is killed when the task is to end.

        Raises:
            RegistrationRefused: it is a lambda, a closure, no function, its name is taken, or it
                cannot have this executor.
            InvalidOption: a value is outside what the option takes.

        Example:
            ``@task(queue="io", timeout=30)`` above ``async def fetch(url: str) -> int: ...``
        """
        options = Options(
            queue=check_name("queue", queue),
            priority=check_priority(priority),
            retry=check_retry(retry),
            timeout=None if timeout is None else check_timeout(timeout),
            executor=None if executor is None else check_executor(executor),
        )

        def register(function: Callable[..., Any]) -> TaskFunction[..., Any]:
            return self._register(function, name, options)

        return register if fn is None else register(fn)

    def get(self, name: str) -> TaskFunction[..., Any] | None:
        """The function of this name, or None."""
        return self._functions.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    def _register(
        self, function: Callable[..., Any], name: str | None, options: Options
    ) -> TaskFunction[..., Any]:
        _refuse_unfit(function, named=name is not None)
        _refuse_executor(function, options.executor)
        chosen = name if name is not None else ".".join(_identity(function))
        _check_function_name(chosen)
        taken = self._functions.get(chosen)
        if taken is not None and _identity(taken.function) != _identity(function):
            raise RegistrationRefused(
                f"the name {chosen!r} is taken by {'.'.join(_identity(taken.function))}; "
                "give another one: @task(name=...)"
            )
        is_async = inspect.iscoroutinefunction(function)
        kind = cast(
            "type[TaskFunction[..., Any]]", AsyncTaskFunction if is_async else SyncTaskFunction
        )
        made = kind(chosen, function, options)
        self._functions[chosen] = made
        return made


default_registry: Final[Registry] = Registry()
task: Final = default_registry.task


def check_registered(function: object) -> TaskFunction[..., Any]:
    """The task function that was given to be enqueued.

    Raises:
        NotRegistered: it is something else.
    """
    if isinstance(function, TaskFunction):
        return cast("TaskFunction[..., Any]", function)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    raise NotRegistered(
        f"{name!s:.200} is not a task function; decorate it with @task, and import its module in "
        "the worker"
    )


def _check_function_name(value: str) -> None:
    try:
        check_name("function", value)
    except InvalidOption as error:
        raise RegistrationRefused(f"{error}; give another one: @task(name=...)") from None


def _refuse_unfit(function: object, *, named: bool) -> None:
    if isinstance(function, TaskFunction):
        name = cast("TaskFunction[..., Any]", function).name
        raise RegistrationRefused(f"{name} is a task function already; decorate its .function")
    if not isinstance(function, FunctionType):
        raise RegistrationRefused(
            f"@task takes a function made by def or async def, not {type(function).__name__}; "
            "call it from such a function, and give options by name: @task(queue=...)"
        )
    name = function.__qualname__
    if function.__name__ == "<lambda>":
        raise RegistrationRefused("a lambda has no name for workers to find it by; use def")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise RegistrationRefused(f"{name} is a generator; a task function returns its result")
    if "<locals>" in name and function.__closure__:
        raise RegistrationRefused(
            f"{name} is a closure: another process cannot have its variables; pass arguments"
        )
    if "<locals>" in name and not named:
        raise RegistrationRefused(
            f"{name} is defined inside a function: move it to its module, or give it a name: "
            "@task(name=...)"
        )


def _refuse_executor(function: Callable[..., Any], executor: Executor | None) -> None:
    name = function.__qualname__
    if executor and inspect.iscoroutinefunction(function):
        raise RegistrationRefused(f"{name} runs on the event loop: async def has no executor")
    importable = "<locals>" not in name and is_importable(function.__module__)
    if executor is Executor.PROCESS and not importable:
        raise RegistrationRefused(
            f"{name} is typed in, or defined inside a function: no process can import it; move it "
            "to a module"
        )


def _identity(function: Callable[..., Any]) -> tuple[str, str]:
    return importable_module_name(function.__module__), function.__qualname__


def _positional_range(signature: inspect.Signature) -> tuple[int, int]:
    """How few and how many positional arguments make a call that needs no closer look."""
    least = most = 0
    for parameter in signature.parameters.values():
        required = parameter.default is parameter.empty
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            least, most = least + required, most + 1
        elif parameter.kind is parameter.VAR_POSITIONAL:
            most = sys.maxsize
        elif parameter.kind is parameter.KEYWORD_ONLY and required:
            return sys.maxsize, -1
    return least, most


def _free_names(signature: inspect.Signature) -> frozenset[str]:
    """Names of positional-only parameters that ``**kwargs`` takes all the same."""
    parameters = signature.parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return frozenset()
    return frozenset(p.name for p in parameters if p.kind is p.POSITIONAL_ONLY)

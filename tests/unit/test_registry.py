"""Task functions: which are taken, under which name, with which options, called with what."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import math
import pickle
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sitq.errors import InvalidArguments, InvalidOption, NotRegistered, RegistrationRefused
from sitq.options import Options, check_key, check_name
from sitq.registry import (
    AsyncTaskFunction,
    Call,
    Registry,
    SyncTaskFunction,
    TaskFunction,
    check_registered,
    default_registry,
    task,
)
from sitq.retry import Retry

ROOT = Path(__file__).parents[2]


@pytest.fixture
def registry() -> Registry:
    return Registry()


def plain(a: int, b: int = 2) -> int:
    """Adds."""
    return a + b


async def coroutine(url: str) -> str:
    return url


def other() -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Holder:
    def method(self, x: int) -> int:
        return x

    def __call__(self) -> None: ...


def twice(function: Callable[..., Awaitable[str]]) -> Callable[..., Awaitable[str]]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> str:
        return await function(*args, **kwargs) * 2

    return wrapper


@twice
async def decorated(text: str) -> str:
    return text


def made_inside(variable: int) -> dict[str, Callable[[], int]]:
    def closure() -> int:
        return variable

    def free() -> int:
        return 1

    return {"closure": closure, "free": free}


# What a task function is.


def test_a_task_function_is_still_its_function(registry: Registry) -> None:
    made = registry.task(plain)
    assert type(made) is SyncTaskFunction
    assert not made.is_async
    assert made(1) == 3
    assert made.function is plain
    assert (made.__name__, made.__qualname__, made.__module__) == ("plain", "plain", __name__)
    assert made.__doc__ == "Adds."
    assert made.__wrapped__ is plain
    assert inspect.signature(made) == inspect.signature(plain)
    assert repr(made) == f"<task {__name__}.plain>"
    assert made.options == Options()


@pytest.mark.anyio
async def test_a_coroutine_function_is_awaited_by_its_caller(registry: Registry) -> None:
    made = registry.task(coroutine)
    assert type(made) is AsyncTaskFunction
    assert made.is_async
    assert await made("u") == "u"


@pytest.mark.anyio
async def test_a_decorated_function_is_taken_as_it_is_called(registry: Registry) -> None:
    made = registry.task(decorated)
    assert made.name == f"{__name__}.decorated"
    assert made.is_async
    assert await cast("Any", made)("x") == "xx"
    with pytest.raises(InvalidArguments):
        made.check((), {})


def test_attributes_of_the_function_hide_none_of_ours(registry: Registry) -> None:
    def clash() -> None: ...

    vars(clash).update(name="x", options=None, is_async=True, call=None, using=None, check=None)
    made = registry.task(name="clash")(clash)
    assert (made.name, made.options, made.is_async) == ("clash", Options(), False)
    assert made.using(priority=1).call().args == ()


def test_parameters_may_have_any_name(registry: Registry) -> None:
    def named(self: int, function: int, args: int, kwargs: int) -> int:
        return self + function + args + kwargs

    made = registry.task(name="named")(named)
    assert made(self=1, function=2, args=3, kwargs=4) == 10
    assert made.call(self=1, function=2, args=3, kwargs=4).kwargs["self"] == 1


def test_equal_only_to_itself(registry: Registry) -> None:
    made = registry.task(plain)
    assert made != made.using()
    assert len({made, made, made.using()}) == 2


# Registration.


def test_a_registry_holds_names(registry: Registry) -> None:
    assert len(registry) == 0
    made = registry.task(plain)
    named = registry.task(name="x.y")(other)
    assert list(registry) == [f"{__name__}.plain", "x.y"]
    assert "x.y" in registry
    assert "x" not in registry
    assert registry.get(made.name) is made
    assert registry.get("x.y") is named
    assert registry.get("x") is None
    assert len(registry) == 2


def test_the_bare_decorator_uses_the_default_registry() -> None:
    made = task(name="tests.default_registry.only")(other)
    assert default_registry.get("tests.default_registry.only") is made
    assert made.name not in Registry()


def test_options_of_the_declaration(registry: Registry) -> None:
    retry = Retry(attempts=5)
    made = registry.task(queue="io", retry=retry, timeout=3, priority=-7)(plain)
    assert made.options == Options(queue="io", retry=retry, timeout=3.0, priority=-7)


@pytest.mark.parametrize("timeout", [None, math.inf])
def test_no_timeout(registry: Registry, timeout: float | None) -> None:
    assert registry.task(timeout=timeout)(plain).options.timeout == timeout


def load(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_same_identity_replaces(registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "cell.py"
    file.write_text("def f():\n    return 1\n")
    first = registry.task(load(file, "cell").f)
    second = registry.task(load(file, "cell").f)
    assert first.function is not second.function
    assert registry.get("cell.f") is second
    assert len(registry) == 1


def test_a_taken_name_is_refused_and_stays(registry: Registry) -> None:
    first = registry.task(plain)
    with pytest.raises(RegistrationRefused, match=r"taken by .*plain; .*name="):
        registry.task(name=first.name)(other)
    with pytest.raises(RegistrationRefused, match="taken"):
        registry.task(name=first.name)(Holder.method)
    assert registry.get(first.name) is first


@pytest.mark.parametrize("name", [None, "given"])
@pytest.mark.parametrize(
    ("function", "reason"),
    [
        pytest.param(lambda: 1, "use def", id="lambda"),
        pytest.param(made_inside(1)["closure"], "pass arguments", id="closure"),
        pytest.param(generator, "returns its result", id="generator"),
        pytest.param(async_generator, "returns its result", id="async generator"),
        pytest.param(Holder, "made by def", id="class"),
        pytest.param(Holder(), "made by def", id="callable object"),
        pytest.param(Holder().method, "made by def", id="bound method"),
        pytest.param(functools.partial(plain, 1), "made by def", id="partial"),
        pytest.param(len, "made by def", id="builtin"),
        pytest.param(staticmethod(plain), "made by def", id="staticmethod"),
        pytest.param("name", "by name: @task", id="option without name"),
        pytest.param(Registry().task(plain), r"decorate its \.function", id="task function"),
    ],
)
def test_what_cannot_be_a_task(
    registry: Registry, function: Any, reason: str, name: str | None
) -> None:
    with pytest.raises(RegistrationRefused, match=reason):
        registry.task(name=name)(function)
    with pytest.raises(RegistrationRefused, match=reason):
        registry.task(function)
    assert len(registry) == 0


def test_a_local_function_needs_a_name(registry: Registry) -> None:
    function = made_inside(1)["free"]
    with pytest.raises(RegistrationRefused, match=r"name="):
        registry.task(function)
    assert registry.task(name="free")(function)() == 1


def test_a_method_is_taken_with_its_self(registry: Registry) -> None:
    made = registry.task(Holder.method)
    assert made.name == f"{__name__}.Holder.method"
    made.check((None, 1), {})


@pytest.mark.parametrize("run_as", ["script", "module"])
def test_a_script_registers_under_its_importable_name(tmp_path: Path, run_as: str) -> None:
    (tmp_path / "jobs.py").write_text(
        "from sitq.registry import default_registry, task\n"
        "@task\ndef f(): ...\n"
        "if __name__ == '__main__':\n"
        "    import jobs\n"
        "    print(__name__, f.name, *default_registry)\n"
        "    assert default_registry.get('jobs.f') is jobs.f\n"
    )
    argv = [str(tmp_path / "jobs.py")] if run_as == "script" else ["-m", "jobs"]
    assert run(tmp_path, *argv) == "__main__ jobs.f jobs.f"


def test_a_child_process_finds_the_functions_of_the_script(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(
        "import multiprocessing\n"
        "from sitq.registry import task\n"
        "@task\ndef f(): ...\n"
        "def show(): print(__name__, f.name, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('spawn').Process(target=show)\n"
        "    process.start()\n    process.join()\n"
    )
    assert run(tmp_path, str(tmp_path / "jobs.py")) == "__mp_main__ jobs.f"


def run(folder: Path, *argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *argv],
        cwd=folder,
        env={"PYTHONPATH": f"{ROOT}:{folder}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_check_registered(registry: Registry) -> None:
    made = registry.task(plain)
    assert check_registered(made) is made
    assert check_registered(made.using(priority=3)).options.priority == 3


@pytest.mark.parametrize(
    ("value", "name"),
    [(plain, "plain"), (Holder.method, "Holder.method"), (Holder(), "Holder"), (None, "NoneType")],
)
def test_what_was_never_registered(value: object, name: str) -> None:
    with pytest.raises(NotRegistered, match=rf"^{name} is not a task .*@task.*import"):
        check_registered(value)


# Names and keys.

GOOD_NAMES = ["a", "_", "9", "pkg.mod.f", "a-b:c", "größe.длина", "a" * 255]
BAD_NAMES = ["", ".", "-a", ":a", ".a", "../x", "a..b", "a/b", "a b", "a\n", "a\0", "\ud800"]
BAD_NAMES += ["a\ud800", "a" * 256, "a" * 10_000_000]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_good_names(registry: Registry, name: str) -> None:
    assert check_name("queue", name) == name
    assert registry.task(name=name, queue=name)(plain).using(queue=name).name == name


@pytest.mark.parametrize("name", [*BAD_NAMES, None, 5, b"a"], ids=lambda name: ascii(name)[:12])
def test_bad_names(registry: Registry, name: Any) -> None:
    with pytest.raises(InvalidOption) as refused:
        check_name("queue", name)
    assert "queue" in str(refused.value)
    assert len(str(refused.value)) < 250
    with pytest.raises(InvalidOption):
        registry.task(queue=name)
    if name is not None:
        with pytest.raises(RegistrationRefused, match="function name"):
            registry.task(name=name)(plain)
    assert len(registry) == 0


@given(st.text(max_size=300))
@example("a.")
def test_a_name_that_is_taken_is_harmless(name: str) -> None:
    try:
        check_name("queue", name)
    except InvalidOption:
        return
    assert 1 <= len(name) <= 255
    assert ".." not in name
    assert all(letter.isalnum() or letter in "_-:." for letter in name)
    assert name.encode()


@pytest.mark.parametrize("key", ["a", "a b", "/../", "ключ", "😀", "x" * 512])
def test_good_keys(registry: Registry, key: str) -> None:
    assert registry.task(plain).using(key=key).options.key == key


BAD_KEYS = ["", "x" * 513, "x" * 10_000_000, "a\0", "a\n", "\x7f", "\x85", "\ud800", 5, b"a"]


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: ascii(key)[:12])
def test_bad_keys(registry: Registry, key: Any) -> None:
    with pytest.raises(InvalidOption, match="key") as refused:
        check_key(key)
    assert len(str(refused.value)) < 250
    with pytest.raises(InvalidOption):
        registry.task(plain).using(key=key)


# Options.


def test_using_copies(registry: Registry) -> None:
    made = registry.task(queue="io", priority=1)(plain)
    now = datetime.now(UTC)
    copy = made.using(delay=30, priority=5, key="k", deadline=now)
    assert type(copy) is SyncTaskFunction
    assert (copy.name, copy.function, copy(1)) == (made.name, plain, 3)
    assert copy.options == Options(queue="io", priority=5, delay=30, key="k", deadline=now)
    assert made.options == Options(queue="io", priority=1)
    assert registry.get(made.name) is made


def test_the_later_using_wins_and_none_leaves_it(registry: Registry) -> None:
    made = registry.task(queue="io", priority=9)(plain)
    copy = made.using(delay=5, key="a", timeout=1).using(delay=0, key=None, timeout=2, priority=0)
    assert copy.options == Options(queue="io", priority=0, delay=0, key="a", call_timeout=2)


def test_what_a_call_overrides_is_kept_apart(registry: Registry) -> None:
    declared, called = Retry(attempts=2), Retry(attempts=9)
    made = registry.task(retry=declared, timeout=3)(plain)
    assert (made.options.call_retry, made.options.call_timeout) == (None, None)
    copy = made.using(retry=called, timeout=math.inf)
    assert (copy.options.retry, copy.options.timeout) == (declared, 3)
    assert (copy.options.call_retry, copy.options.call_timeout) == (called, math.inf)


def test_delay_and_run_at_exclude_each_other(registry: Registry) -> None:
    made, now = registry.task(plain), datetime.now(UTC)
    with pytest.raises(InvalidOption, match="delay and run_at"):
        made.using(delay=1, run_at=now)


FUTURE = datetime.now(UTC) + timedelta(days=365)
BAD_NUMBERS = (True, False, "1", math.nan, -1, -0.5, -math.inf, [])
BAD_MOMENTS = (
    datetime.now(),
    datetime(9999, 12, 31, tzinfo=UTC),
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
    datetime.now(UTC) + timedelta(days=36_600),
    date.today(),
    5,
    "2030-01-01",
)
BAD_OPTIONS = {
    "delay": (*BAD_NUMBERS, math.inf, 3.2e9, 10**400),
    "timeout": (*BAD_NUMBERS, 0, 0.0),
    "priority": (True, 101, -101, 1.0, "1", math.nan),
    "retry": (3, 1, 0, True, "Retry", Retry),
    "run_at": BAD_MOMENTS,
    "deadline": BAD_MOMENTS,
}


@pytest.mark.parametrize(
    ("option", "value"),
    [(option, value) for option, values in BAD_OPTIONS.items() for value in values],
    ids=lambda value: repr(value)[:17],  # the same in each process of a run
)
def test_bad_options_are_refused_at_once(registry: Registry, option: str, value: Any) -> None:
    with pytest.raises(InvalidOption, match=option) as refused:
        registry.task(plain).using(**{option: value})
    assert len(str(refused.value)) < 250
    if option in ("timeout", "priority", "retry"):
        with pytest.raises(InvalidOption, match=option):
            registry.task(**{option: value})


def test_a_naive_time_is_refused_with_what_to_do(registry: Registry) -> None:
    with pytest.raises(InvalidOption, match=r"time zone.*timezone\.utc"):
        registry.task(plain).using(run_at=FUTURE.replace(tzinfo=None))


class Unhashable:
    """As far as can be seen, a connection."""

    __hash__ = None  # type: ignore[assignment]

    def cursor(self) -> None: ...

    def execute(self) -> None: ...


def test_a_connection(registry: Registry) -> None:
    made = registry.task(plain)
    with closing(sqlite3.connect(":memory:")) as connection:
        copy = made.using(connection=connection)
        assert copy.options.connection is connection
        assert copy.using(priority=3).options == Options(priority=3, connection=connection)
        assert copy.using(connection=None).options == made.options == Options()
        assert copy.using(connection=None, key="k").options == Options(key="k")
        assert copy.options != made.options
        assert hash(copy.options) == hash(made.options)
    odd = made.using(connection=Unhashable()).options
    assert {odd} == {odd}
    assert pickle.loads(pickle.dumps(made.options)) == made.options


@pytest.mark.parametrize("value", ["tasks.db", 5, True, b"", [], sqlite3, object(), plain])
def test_what_is_no_connection(registry: Registry, value: Any) -> None:
    with pytest.raises(InvalidOption, match="connection must be") as refused:
        registry.task(plain).using(connection=value)
    assert len(str(refused.value)) < 250


def test_a_declaration_takes_no_connection(registry: Registry) -> None:
    with pytest.raises(TypeError):
        cast("Any", registry.task)(connection=Unhashable())


def test_options_are_only_named(registry: Registry) -> None:
    using: Any = registry.task(plain).using
    with pytest.raises(TypeError):
        using(5)
    with pytest.raises(TypeError):
        using(wait=5)


@given(
    delay=st.none() | st.floats(0, 3e9) | st.integers(0, 3_000_000_000),
    priority=st.none() | st.integers(-100, 100),
    timeout=st.none() | st.floats(0, 3e9, exclude_min=True) | st.just(math.inf),
    deadline=st.none()
    | st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
)
def test_good_options_come_through(**given_options: Any) -> None:
    options = Registry().task(plain).using(**given_options).options
    assert options.delay == given_options["delay"]
    assert options.priority == (given_options["priority"] or 0)
    assert options.call_timeout == given_options["timeout"]
    assert options.deadline == given_options["deadline"]


# Calls.


def test_a_bound_call(registry: Registry) -> None:
    made = registry.task(plain).using(priority=3)
    call = made.call(1, b=4)
    assert isinstance(call, Call)
    assert (call.function, call.args, dict(call.kwargs)) == (made, (1,), {"b": 4})
    with pytest.raises(AttributeError):
        cast("Any", call).args = ()
    assert not hasattr(call, "__dict__")


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, r"plain\(\) missing a required argument: 'a'"),
        ((1, 2, 3), {}, r"plain\(\) too many positional arguments"),
        ((1,), {"a": 1}, r"plain\(\) multiple values for argument 'a'"),
        ((1,), {"c": 1}, r"plain\(\) got an unexpected keyword argument 'c'"),
    ],
)
def test_arguments_that_do_not_fit(
    registry: Registry, args: Any, kwargs: Any, message: str
) -> None:
    made: TaskFunction[..., int] = registry.task(plain)
    with pytest.raises(InvalidArguments, match=f"^{message}$") as refused:
        made.call(*args, **kwargs)
    assert isinstance(refused.value, TypeError)


@st.composite
def signatures(draw: st.DrawFn) -> str:
    count = st.integers(0, 2)
    only, usual, named, defaults = (draw(count) for _ in range(4))
    parameters = [f"p{n}" for n in range(only + usual)]
    for n in range(len(parameters) - min(defaults, len(parameters)), len(parameters)):
        parameters[n] += "=0"
    if only:
        parameters.insert(only, "/")
    parameters += draw(st.sampled_from([[], ["*rest"]])) or (["*"] if named else [])
    parameters += [f"k{n}{draw(st.sampled_from(['', '=0']))}" for n in range(named)]
    return ", ".join(parameters + draw(st.sampled_from([[], ["**more"]])))


@example("p0=0, /, **more", [], {"p0": None})
@example("p0, /, **more", [], {"p0": None})
@example("p0=0, /", [], {"p0": None})
@given(
    signatures(),
    st.lists(st.none(), max_size=6),
    st.dictionaries(st.sampled_from(["p0", "p1", "p2", "p3", "k0", "k1", "x"]), st.none()),
)
def test_the_check_agrees_with_python(
    parameters: str, args: list[None], kwargs: dict[str, None]
) -> None:
    space: dict[str, Any] = {"__name__": "made"}
    exec(f"def f({parameters}): pass", space)
    made = Registry().task(space["f"])
    for named in ({}, kwargs):
        try:
            space["f"](*args, **named)
        except TypeError:
            with pytest.raises(InvalidArguments):
                made.check(tuple(args), named)
        else:
            made.check(tuple(args), named)


def test_usual_calls_skip_the_slow_check(registry: Registry) -> None:
    made = registry.task(plain)
    cast("Any", made)._signature = None
    made.using(delay=1).check((1,), {})
    made.check((1, 2), {})
    with pytest.raises(AttributeError):
        made.check((1,), {"b": 2})


# Types.


def test_types_of_task_functions() -> None:
    pytest.importorskip("basedpyright")
    sample = str(Path(__file__).with_name("typing_registry.py"))
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, sample],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 errors, 0 warnings" in done.stdout

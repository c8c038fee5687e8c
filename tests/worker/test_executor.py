"""Which functions can have which executor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sitq import Registry
from sitq.errors import InvalidOption, RegistrationRefused


def plain() -> None: ...


async def coroutine() -> None: ...


def inner() -> Callable[[], None]:
    def within() -> None: ...

    return within


def declare(function: Callable[..., Any], executor: Any) -> object:
    return Registry().task(name="declared", executor=executor)(function)


@pytest.mark.parametrize("executor", [None, "thread", "process"])
def test_a_function_of_a_module_has_any(executor: Any) -> None:
    assert declare(plain, executor)


@pytest.mark.parametrize("executor", ["threads", "", 5, ["process"], True])
def test_others_are_refused(executor: Any) -> None:
    with pytest.raises(InvalidOption, match="executor must be 'thread' or 'process'"):
        declare(plain, executor)


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_a_coroutine_function_has_none(executor: Any) -> None:
    with pytest.raises(RegistrationRefused, match="coroutine runs on the event loop"):
        declare(coroutine, executor)


def test_no_process_finds_what_is_inside_a_function() -> None:
    assert declare(inner(), "thread")
    with pytest.raises(RegistrationRefused, match="within is typed in, or defined inside"):
        declare(inner(), "process")


def test_a_call_cannot_change_it() -> None:
    function = Registry().task(executor="process")(plain)
    with pytest.raises(TypeError):
        function.using(executor="thread")  # type: ignore[call-arg]
    assert function.using(priority=5).options.executor == "process"

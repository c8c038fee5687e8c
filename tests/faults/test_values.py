"""Results that cannot be stored: the task fails, by name, and its function is not run again."""

from __future__ import annotations

import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import anyio
import pytest

from sitq import (
    MsgpackSerializer,
    Registry,
    Retry,
    Serializer,
    SQLiteBackend,
    State,
    TaskQueue,
    Worker,
    serializable,
)
from sitq.errors import NotSerializable, TaskFailed

pytestmark = pytest.mark.anyio
registry = Registry()
ran: list[str] = []


class Level(IntEnum):
    LOW = 1


@dataclass
class Unknown:
    value: int


@serializable
@dataclass
class Rude:
    value: int

    def __getattribute__(self, name: str) -> Any:
        if name == "value":
            raise RuntimeError("ask somebody else")
        return object.__getattribute__(self, name)


class Liar:
    @property
    def __class__(self) -> type:  # type: ignore[override]
        return int


def holding_itself() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def nested(levels: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(levels):
        made = [made]
    return made


async def coroutine() -> None:
    """Never awaited."""


RESULTS: dict[str, Callable[[], Any]] = {
    "object": object,
    "socket": lambda: type("Closed", (), {"socket": socket.socket})(),
    "lock": threading.Lock,
    "function": lambda: coroutine,
    "coroutine": coroutine,
    "generator": lambda: (number for number in range(3)),
    "class": lambda: ValueError,
    "exception": lambda: ValueError("returned, not raised"),
    "subclass of dict": lambda: OrderedDict(a=1),
    "enum": lambda: Level.LOW,
    "dataclass": lambda: Unknown(1),
    "rude dataclass": lambda: Rude(1),
    "liar": Liar,
    "deep": lambda: nested(200),
    "very deep": lambda: nested(100_000),
    "holding itself": holding_itself,
    "too many": lambda: [None] * 1_000_000,
    "too large": lambda: "x" * (2 << 20),
    "deep inside": lambda: {"a": [1, (2, {"b": object()})]},
}


@registry.task(name="returns", retry=Retry(attempts=5, base=0))
async def returns(what: str) -> Any:
    ran.append(what)
    return RESULTS[what]()


@registry.task(name="returns_from_thread", retry=Retry(attempts=5, base=0))
def returns_from_thread(what: str) -> Any:
    ran.append(what)
    return RESULTS[what]()


@registry.task(name="one", retry=Retry(attempts=5, base=0))
async def one() -> int:
    ran.append("one")
    return 1


async def test_a_result_that_cannot_be_stored_fails_the_task() -> None:
    ran.clear()
    backend = SQLiteBackend(":memory:")
    async with TaskQueue(backend) as queue, Worker(backend, registry=registry):
        calls = [
            function.call(what) for what in RESULTS for function in (returns, returns_from_thread)
        ]
        with anyio.fail_after(60):
            for handle in await queue.enqueue_many(calls):
                with pytest.raises(TaskFailed, match="NotSerializable: the result of returns"):
                    await handle.result()
                task = await handle.get()
                assert task is not None
                assert (task.state, task.attempts) == (State.FAILED, 1)
            assert await (await queue.enqueue(one)).result() == 1
    assert sorted(ran) == sorted([*RESULTS, *RESULTS, "one"])


class Broken(Serializer):
    """Packs arguments, and not the results of ``one``."""

    def __init__(self, answer: Any) -> None:
        self._sound = MsgpackSerializer()
        self._answer = answer

    def dumps(self, obj: Any) -> bytes:
        if obj != 1:
            return self._sound.dumps(obj)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def loads(self, data: bytes) -> Any:
        return self._sound.loads(data)


@pytest.mark.parametrize(
    "answer",
    [None, "text", bytearray(b"x"), b"x" * (2 << 20), RuntimeError("no"), NotSerializable("no")],
    ids=lambda answer: type(answer).__name__,
)
async def test_a_serializer_that_fails_on_a_result(answer: Any) -> None:
    ran.clear()
    backend, broken = SQLiteBackend(":memory:"), Broken(answer)
    async with (
        TaskQueue(backend, serializer=broken) as queue,
        Worker(backend, registry=registry, serializer=broken),
    ):
        handle = await queue.enqueue(one)
        with pytest.raises(TaskFailed, match="NotSerializable"):
            await handle.result(30)
    assert ran == ["one"]

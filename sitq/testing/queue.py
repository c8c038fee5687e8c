"""A queue that tells a test what was enqueued."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ParamSpec, Self, overload

from sitq.errors import NotSerializable
from sitq.model import Task
from sitq.naming import shown
from sitq.queue import TaskQueue
from sitq.registry import TaskFunction, check_registered

__all__ = ["Enqueued", "Queue"]

P = ParamSpec("P")

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]

PAGE = 10_000
WIDTH = 240
"""Characters to which pytest cuts what it shows of a value."""
MOST_SHOWN = 5


class Enqueued(Sequence[Task]):
    """The tasks that `Queue.enqueued` found, in the order of enqueueing; false if there are none.

    Its repr says what was enqueued instead, for the message of an assert that fails.
    """

    def __init__(self, tasks: Sequence[Task], text: str) -> None:
        self._tasks = tuple(tasks)
        self._text = text

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | Sequence[Task]:
        return self._tasks[index]

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        return self._text


class Queue(TaskQueue):
    """A `sitq.TaskQueue` for tests: ``assert await queue.enqueued(fetch, "u")``.

    It finds what was enqueued through any queue of the same store. Arguments as of
    `sitq.TaskQueue`.
    """

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        return self

    async def enqueued(
        self, function: TaskFunction[P, Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> Enqueued:
        """The tasks of a function with these arguments, whether they have ended or not.

        Arguments are the same however they were given, by place or by name or by default, and are
        compared with ``==``: `unittest.mock.ANY` stands for any value. Options are not compared:
        look at the tasks, as in ``[task] = await queue.enqueued(fetch, "u")``, then ``task.queue``.

        Args:
            function: a function registered with ``@task``.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Returns:
            the tasks; without any it is false, and its repr tells what was enqueued instead.

        Raises:
            NotRegistered: the function was not registered.
            InvalidArguments: the arguments do not fit its signature.
        """
        call = check_registered(function).call(*args, **kwargs)
        signature = inspect.signature(function.function)
        expected = _bound(signature, (call.args, call.kwargs))
        found: list[Task] = []
        others: list[Task] = []
        for task in await self._of(function.name):
            given = await self._given(task)
            same = given is not None and expected == _bound(signature, given)
            (found if same else others).append(task)
        wanted = _text(function.name, (call.args, call.kwargs))
        if found:
            return Enqueued(found, _found(wanted, found))
        if others:
            return Enqueued((), await self._instead(wanted, others, len(others)))
        strangers = await self.find(limit=MOST_SHOWN)
        number = sum((await self.counts()).values())
        return Enqueued((), await self._instead(wanted, strangers, number))

    async def _of(self, name: str) -> list[Task]:
        """All tasks of a function."""
        tasks: list[Task] = []
        page = await self.find(name=name, limit=PAGE)
        while page:
            tasks += page
            page = await self.find(name=name, after=page[-1], limit=PAGE)
        return tasks

    async def _given(self, task: Task) -> Arguments | None:
        """With which arguments it was enqueued; None if they cannot be read."""
        try:
            return await self.arguments(task.id)
        except NotSerializable:
            return None

    async def _instead(self, wanted: str, others: Sequence[Task], number: int) -> str:
        """What is said when a call was not found, but so many others."""
        if not others:
            return f"no call {wanted}; nothing was enqueued"
        texts = [_text(task.name, await self._given(task)) for task in others[:MOST_SHOWN]]
        text = f"no call {wanted}; enqueued were "
        return text + _joined(texts, number, WIDTH - len(text))


def _bound(signature: inspect.Signature, arguments: Arguments) -> object:
    """Each argument under its name, those by default among them."""
    args, kwargs = arguments
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:  # stored by other code than that which runs here
        return args, dict(kwargs)
    bound.apply_defaults()
    return bound.arguments


def _text(name: str, arguments: Arguments | None) -> str:
    if arguments is None:
        return f"{name}(<arguments that cannot be read>)"
    args, kwargs = arguments
    named = (f"{key}={shown(value)}" for key, value in kwargs.items())
    return f"{name}({', '.join([*map(shown, args), *named])})"


def _found(wanted: str, tasks: Sequence[Task]) -> str:
    states = ", ".join(dict.fromkeys(task.state for task in tasks))
    number = "1 call" if len(tasks) == 1 else f"{len(tasks)} calls"
    return f"{number} {wanted}, {states}"


def _joined(texts: Iterable[str], number: int, width: int) -> str:
    """As many of the texts as fit, one at least, and how many more there are."""
    joined, *rest = texts
    more = number - 1
    for text in rest:
        longer = f"{joined}, {text}"
        if len(longer) + len(f" and {more} more") > width:
            break
        joined, more = longer, more - 1
    return f"{joined} and {more} more" if more else joined

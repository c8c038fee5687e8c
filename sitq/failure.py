"""Exceptions as data: text, bounded, safe to store and to log, never rebuilt into classes.

Nothing here raises, whatever the exception or the stored bytes are like.
"""

from __future__ import annotations

import linecache
import os
import re
import sys
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, cast

import msgpack  # pyright: ignore[reportMissingTypeStubs]

from sitq.errors import TaskFailed
from sitq.model import ErrorInfo
from sitq.naming import class_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, TracebackType

__all__ = ["describe", "pack_error", "summary", "unpack_error"]

_msgpack: Any = msgpack  # it ships no types: these two names are all that is used of it
_packb: Callable[..., bytes] = _msgpack.packb
_unpackb: Callable[..., Any] = _msgpack.unpackb

_TYPE: Final = 200
_MESSAGE: Final = 4096
_TRACEBACK: Final = 16 * 1024  # bytes
_FRAMES: Final = 30
_LINE: Final = 500
_NOTES: Final = 16
_NOTE: Final = 1024
_DEPTH: Final = 8
_MEMBERS: Final = 32
_NODES: Final = 64
_ALL_TEXT: Final = 256 * 1024
"""Characters of traceback and notes in all; the outermost exceptions come first."""
_STORED: Final = 4 << 20
"""More bytes than any packed error has."""

# Control characters, lone surrogates, and what breaks or reorders a line of text.
_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_INTERNALS: Final = ("anyio", "asyncio", "trio", "outcome", "concurrent.futures", "threading")


def describe(error: BaseException) -> ErrorInfo:
    """An exception as data, with its causes and members; bounded in every direction.

    Never raises, whatever the methods of the exception do.

    Args:
        error: the exception as it was caught.

    Returns:
        Text only. ``traceback`` holds the innermost frames as Python prints them, without locals;
        the frames of sitq and of the event loop above the task function are left out.
    """
    try:
        return _described(error)
    except BaseException:
        return ErrorInfo(_type_name(type(error)), "<the exception could not be described>")


def pack_error(info: ErrorInfo) -> bytes:
    """The bytes under which a described exception is stored."""
    return _packb(_as_map(info, _DEPTH))


def unpack_error(data: bytes) -> ErrorInfo:
    """The described exception that `pack_error` stored.

    Never raises: bytes that cannot be read, hostile ones too, become an `ErrorInfo` that says so.
    """
    try:
        if len(data) > _STORED:
            raise ValueError(f"{len(data)} bytes")
        containers = _Budget(8 * _NODES)
        stored = _unpackb(
            data,
            unicode_errors="replace",
            max_array_len=_MEMBERS,
            max_map_len=16,
            max_ext_len=0,
            list_hook=containers.spend,
            object_hook=containers.spend,
        )
        return _from_map(stored, _DEPTH)
    except Exception as error:
        name = _type_name(type(error))
        return ErrorInfo("sitq.errors.StoreError", f"the stored error cannot be read ({name})")


def summary(info: ErrorInfo) -> str:
    """One line for logs and messages, at most 200 characters: ``module.Type: message``.

    The module is left out for Python's own exceptions.
    """
    message = " ".join(info.message[:_MESSAGE].split())
    name = info.type[:_TYPE].removeprefix("builtins.")
    line = _clean(f"{name}: {message}" if message else name, 4 * _MESSAGE)
    return _cut(line.replace("\n", " ").replace("\t", " "), 200)


# From exceptions.

# The slots of BaseException itself: a class may shadow them with anything.
_slots: Final[dict[str, Any]] = {**vars(BaseException), **vars(BaseExceptionGroup)}


def _slot(error: BaseException, name: str) -> Any:
    return _slots[name].__get__(error)


@dataclass(slots=True, eq=False)
class _Node:
    """An exception on its way to an `ErrorInfo`, which is built from the leaves up."""

    error: BaseException
    depth: int
    above: frozenset[int]
    """Who led here: no exception is its own cause."""
    cause: _Node | None = None
    members: list[_Node] = field(default_factory=list["_Node"])
    info: ErrorInfo | None = None


def _described(error: BaseException) -> ErrorInfo:
    nodes = _gathered(error)
    texts = _Budget(_ALL_TEXT)
    told = [(_notes(node.error, texts), _traceback(node.error, texts)) for node in nodes]
    rest = _Budget(_NODES - len(nodes))
    remote = [_remote(node, texts, rest) for node in nodes]
    for node, (notes, traceback), elsewhere in zip(
        reversed(nodes), reversed(told), reversed(remote), strict=True
    ):
        node.info = ErrorInfo(
            type=_type_name(type(node.error)),
            message=_clean(_text(node.error), _MESSAGE),
            traceback=traceback,
            notes=notes,
            cause=node.cause.info if node.cause else elsewhere,
            members=tuple(member.info for member in node.members if member.info),
        )
    return nodes[0].info or ErrorInfo(_type_name(type(error)), "")


def _gathered(error: BaseException) -> list[_Node]:
    """The exceptions to tell of, breadth first, so that what is left out is what lies deepest."""
    nodes = [_Node(error, 0, frozenset())]
    for node in nodes:
        above = node.above | {id(node.error)}
        for name, linked in _links(node.error):
            if node.depth < _DEPTH and len(nodes) < _NODES and id(linked) not in above:
                child = _Node(linked, node.depth + 1, above)
                nodes.append(child)
                if name == "cause":
                    node.cause = child
                else:
                    node.members.append(child)
    return nodes


def _remote(node: _Node, texts: _Budget, rest: _Budget) -> ErrorInfo | None:
    """What made another task fail is why this one does."""
    if type(node.error) is not TaskFailed:
        return None
    return _bounded(node.error.result.error, texts, rest, _DEPTH - node.depth - 1)


def _bounded(info: ErrorInfo | None, texts: _Budget, rest: _Budget, depth: int) -> ErrorInfo | None:
    """As much of it as there is room for."""
    if info is None or depth < 0 or rest.room <= 0:
        return None
    rest.room -= 1
    members = [_bounded(member, texts, rest, depth - 1) for member in info.members]
    return replace(
        info,
        traceback=texts.text(info.traceback),
        notes=tuple(map(texts.text, info.notes)),
        cause=_bounded(info.cause, texts, rest, depth - 1),
        members=tuple(member for member in members if member is not None),
    )


def _links(error: BaseException) -> Iterator[tuple[str, BaseException]]:
    cause = _slot(error, "__cause__")
    if cause is None and not _slot(error, "__suppress_context__"):
        cause = _slot(error, "__context__")
    if cause is not None:
        yield "cause", cause
    if issubclass(type(error), BaseExceptionGroup):
        for member in _slot(error, "exceptions")[:_MEMBERS]:
            yield "member", member


def _type_name(cls: type[BaseException]) -> str:
    try:
        return _clean(class_name(cls), _TYPE)
    except BaseException:
        return _clean(type.__repr__(cls), _TYPE)


def _text(value: object) -> str:
    """Its ``str``; not even an interrupt raised by its ``__str__`` gets out."""
    try:
        return str(value)
    except BaseException as error:
        return f"<no text: __str__ raised {_type_name(type(error))}>"


def _notes(error: BaseException, room: _Budget) -> tuple[str, ...]:
    try:
        notes: Any = getattr(error, "__notes__", ())
        if not issubclass(type(notes), (list, tuple)):
            return ()
        return tuple(room.text(_clean(_text(note), _NOTE)) for note in notes[:_NOTES])
    except BaseException:
        return ()


def _traceback(error: BaseException, room: _Budget) -> str:
    frames: deque[tuple[FrameType, int]] = deque(maxlen=_FRAMES)
    count = 0
    for step in _own_steps(_slot(error, "__traceback__")):
        frames.append((step.tb_frame, step.tb_lineno))
        count += 1
    if not frames:
        return ""
    left_out = f"  [{count - _FRAMES} frames left out]\n" if count > _FRAMES else ""
    lines = "".join(_frame(frame, line) for frame, line in frames)
    return room.text(_tail(f"Traceback (most recent call last):\n{left_out}", lines))


def _own_steps(traceback: TracebackType | None) -> Iterator[TracebackType]:
    """Begins at the first frame that is not machinery, or at the top if all of them are."""
    folders = _internal_files()
    first = traceback
    while first is not None and first.tb_frame.f_code.co_filename.startswith(folders):
        first = first.tb_next
    step = first or traceback
    while step is not None:
        yield step
        step = step.tb_next


def _internal_files() -> tuple[str, ...]:
    """The beginnings of the file names of sitq and of what calls task functions for it."""
    found = [os.path.dirname(os.path.abspath(__file__)) + os.sep]
    for name in _INTERNALS:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            package = os.path.basename(file) == "__init__.py"
            found.append(os.path.dirname(file) + os.sep if package else file)
    return tuple(found)


def _frame(frame: FrameType, line: int) -> str:
    code = frame.f_code
    shown = f'  File "{code.co_filename}", line {line}, in {code.co_name}'
    try:
        source = linecache.getline(code.co_filename, line, frame.f_globals).strip()
    except BaseException:  # the module's own loader is asked, and may do anything
        source = ""
    lines = [shown, f"    {source}"] if source else [shown]
    return "".join(_clean(text, _LINE).replace("\n", " ") + "\n" for text in lines)


def _tail(head: str, lines: str) -> str:
    room = _TRACEBACK - len(head)
    kept = lines.encode(errors="backslashreplace")
    if len(kept) <= room:
        return head + lines
    return f"{head}  ...\n" + kept[-room + 6 :].decode(errors="ignore").split("\n", 1)[-1]


# Text.


def _clean(text: str, limit: int) -> str:
    """Plain ``str``, cut, with everything escaped that cannot be stored or would spoil a log."""
    plain = str.__getitem__(text, slice(0, limit + 1))
    return _cut(_UNSAFE.sub(_escape, plain), limit)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


class _Budget:
    """What may still be spent: containers that are unpacked, or characters that are kept."""

    def __init__(self, room: int) -> None:
        self.room = room

    def spend(self, container: Any) -> Any:
        self.room -= 1
        if self.room < 0:
            raise ValueError("too many parts")
        return container

    def text(self, text: str) -> str:
        if len(text) > self.room:
            return ""
        self.room -= len(text)
        return text


# To bytes and back.


def _as_map(info: ErrorInfo, depth: int) -> dict[str, Any]:
    stored: dict[str, Any] = {
        "type": _clean(info.type, _TYPE),
        "message": _clean(info.message, _MESSAGE),
    }
    if info.traceback:
        stored["traceback"] = _clean(info.traceback, _TRACEBACK)
    if info.notes:
        stored["notes"] = [_clean(note, _NOTE) for note in info.notes[:_NOTES]]
    if info.cause and depth:
        stored["cause"] = _as_map(info.cause, depth - 1)
    if info.members and depth:
        stored["members"] = [_as_map(member, depth - 1) for member in info.members[:_MEMBERS]]
    return stored


def _from_map(stored: dict[str, Any], depth: int) -> ErrorInfo:
    cause = stored.get("cause")
    return ErrorInfo(
        type=_stored_text(stored["type"], _TYPE),
        message=_stored_text(stored["message"], _MESSAGE),
        traceback=_stored_text(stored.get("traceback", ""), _TRACEBACK),
        notes=tuple(_stored_text(note, _NOTE) for note in _stored_list(stored, "notes")[:_NOTES]),
        cause=_from_map(cause, depth - 1) if cause is not None and depth else None,
        members=tuple(
            _from_map(member, depth - 1) for member in _stored_list(stored, "members") if depth
        ),
    )


def _stored_list(stored: dict[str, Any], name: str) -> list[Any]:
    value = stored.get(name, [])
    if not isinstance(value, list):
        raise TypeError(f"{name} should be a list")
    return cast("list[Any]", value)


def _stored_text(value: object, limit: int) -> str:
    if not isinstance(value, str):
        raise TypeError("text is missing")
    return _clean(value, limit)

"""Exceptions become bounded text, whatever they are like, and stored bytes always become text."""

from __future__ import annotations

import asyncio
import os
import re
import struct
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sitq
from sitq.failure import describe, pack_error, summary, unpack_error
from sitq.model import ErrorInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

text = st.text(st.characters(codec=None, exclude_categories=()), max_size=50)


def caught(function: Callable[..., object], *args: object) -> BaseException:
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def fail(error: BaseException) -> None:
    raise error


def infos(info: ErrorInfo) -> Iterator[ErrorInfo]:
    yield info
    for inner in filter(None, (info.cause, *info.members)):
        yield from infos(inner)


def depth(info: ErrorInfo) -> int:
    return max((1 + depth(i) for i in (info.cause, *info.members) if i), default=0)


def check(info: ErrorInfo) -> ErrorInfo:
    """Bounded, storable, and the same after it was stored."""
    parts = list(infos(info))
    assert len(parts) <= 64
    assert depth(info) <= 8
    for part in parts:
        assert len(part.type) <= 200
        assert len(part.message) <= 4096
        assert len(part.traceback.encode()) <= 16 * 1024
        assert len(part.notes) <= 16
        assert len(part.members) <= 32
        for shown in (part.type, part.message, part.traceback, *part.notes):
            assert type(shown) is str
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", shown)
    stored = pack_error(info)
    assert len(stored) < 4 << 20
    assert unpack_error(stored) == info
    line = summary(info)
    assert len(line) <= 200
    assert line.isprintable() or not re.search("[\x00-\x1f\x7f-\x9f]", line)
    return info


def test_an_exception_becomes_text() -> None:
    error = caught(fail, ValueError("no such host"))
    error.add_note("tried twice")
    info = check(describe(error))
    assert (info.type, info.message, info.notes) == (
        "builtins.ValueError",
        "no such host",
        ("tried twice",),
    )
    assert info.traceback.startswith("Traceback (most recent call last):\n  File ")
    assert info.traceback.endswith("in fail\n    raise error\n")
    assert info.cause is None
    assert info.members == ()
    assert summary(info) == "ValueError: no such host"


def test_an_exception_that_was_not_raised_has_no_traceback() -> None:
    assert check(describe(KeyError("k"))) == ErrorInfo("builtins.KeyError", "'k'")


def test_causes_and_contexts() -> None:
    def chained() -> None:
        try:
            raise KeyError("first")
        except KeyError:
            try:
                raise TypeError("second")
            except TypeError as second:
                raise ValueError("third") from second

    info = check(describe(caught(chained)))
    assert info.cause is not None
    assert info.cause.message == "second"
    assert info.cause.cause is not None
    assert info.cause.cause.message == "'first'"


def test_a_suppressed_context_is_left_out() -> None:
    def suppressed() -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second") from None

    assert check(describe(caught(suppressed))).cause is None


def test_groups_have_members() -> None:
    inner = ExceptionGroup("inner", [KeyError("a")])
    info = check(describe(caught(fail, BaseExceptionGroup("outer", [inner, SystemExit(1)]))))
    assert [member.type for member in info.members] == [
        "builtins.ExceptionGroup",
        "builtins.SystemExit",
    ]
    assert info.members[0].members[0].message == "'a'"


def test_cycles_end() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    info = check(describe(first))
    assert [part.message for part in infos(info)] == ["first", "second"]
    group = ExceptionGroup("group", [first])
    second.__cause__ = group
    assert [part.message for part in infos(check(describe(group)))][1:] == ["first", "second"]


def test_chains_and_groups_are_cut() -> None:
    error: BaseException = ValueError("0")
    for n in range(1, 100):
        outer = ValueError(str(n))
        outer.__cause__ = error
        error = outer
    assert depth(check(describe(error))) == 8
    wide = ExceptionGroup("wide", [ValueError(str(n)) for n in range(1000)])
    assert len(check(describe(wide)).members) == 32
    nested = ExceptionGroup("nested", [wide, wide, wide])
    info = check(describe(nested))
    assert len(list(infos(info))) == 64
    assert len(info.members) == 3
    deep: Exception = ValueError("x")
    for _ in range(500):
        deep = ExceptionGroup("deep", [deep])
    assert depth(check(describe(deep))) == 8


def test_huge_texts_are_cut() -> None:
    error = ValueError("ä\x00" * 1_000_000)
    error.__notes__ = ["n" * 100_000] * 100
    error = ExceptionGroup("x" * 100_000, [error] * 1000)  # type: ignore[assignment]
    info = check(describe(error))
    assert info.message.endswith("...")
    assert len(info.members[0].notes) == 16
    kind = type("K" * 10_000, (Exception,), {})
    assert check(describe(kind())).type.endswith("KKK...")


def test_unstorable_characters_are_escaped() -> None:
    info = check(describe(ValueError("a\x00b\x1b[31m\r\n\tc\ud800\u2028\u202e ü")))
    assert info.message == "a\\x00b\\x1b[31m\\x0d\n\tc\\ud800\\u2028\\u202e ü"
    assert summary(info) == "ValueError: a\\x00b\\x1b[31m\\x0d c\\ud800\\u2028\\u202e ü"


@given(text, st.lists(text, max_size=3))
def test_any_text_can_be_stored(message: str, notes: list[str]) -> None:
    error = ValueError(message)
    for note in notes:
        error.add_note(note)
    check(describe(error))


# Exceptions that lie, or break when touched.


def interrupt(*_: object) -> Any:
    raise KeyboardInterrupt("not now")


class Text(str):
    __slots__ = ()

    def __len__(self) -> int:
        raise SystemExit

    __getitem__ = __str__ = __format__ = interrupt


def returns(value: object) -> Callable[..., object]:
    return lambda *_: value


NASTY: dict[str, dict[str, Any]] = {
    "str raises": {"__str__": lambda self: 1 / 0},
    "str interrupts": {"__str__": interrupt},
    "str is no text": {"__str__": returns(1)},
    "str is odd text": {"__str__": returns(Text("x"))},
    "str recurses": {"__str__": lambda self: str(self)},
    "notes are a number": {"__notes__": 5},
    "notes are text": {"__notes__": "abc"},
    "notes are None": {"__notes__": None},
    "notes interrupt": {"__notes__": property(interrupt)},
    "notes hold anything": {
        "__notes__": [1, None, Text("x"), type("R", (), {"__str__": interrupt})()]
    },
    "class lies": {"__class__": property(returns(int))},
    "class interrupts": {"__class__": property(interrupt)},
    "traceback is a number": {"__traceback__": 5},
    "cause is a number": {"__cause__": 5, "__context__": "x", "__suppress_context__": "y"},
    "cause interrupts": {"__cause__": property(interrupt), "__context__": property(interrupt)},
    "exceptions are a number": {"exceptions": 5},
    "attributes interrupt": {"__getattribute__": interrupt},
    "repr interrupts": {"__repr__": interrupt, "__format__": interrupt},
    "hash and eq interrupt": {"__hash__": interrupt, "__eq__": interrupt},
    "module is a number": {"__module__": 5},
    "module is missing": {"__module__": None},
}


@pytest.mark.parametrize("body", NASTY.values(), ids=NASTY.keys())
@pytest.mark.parametrize("base", [ValueError, ExceptionGroup, BaseException])
def test_nasty_exceptions_are_described(base: type[BaseException], body: dict[str, Any]) -> None:
    kind = type("Nasty", (base,), body)
    args = ("message", [ValueError("inner")]) if base is ExceptionGroup else ("message",)
    error = caught(fail, kind(*args))
    BaseException.__dict__["__cause__"].__set__(error, KeyError("cause"))
    info = check(describe(error))
    assert info.type.endswith("Nasty")
    assert "in fail" in info.traceback
    assert info.cause is not None
    assert info.cause.type == "builtins.KeyError"
    assert [member.message for member in info.members] == ["inner"] * (base is ExceptionGroup)


def test_a_nasty_metaclass_is_described() -> None:
    class Meta(type):
        __getattribute__ = interrupt

    class Nasty(Exception, metaclass=Meta):
        pass

    assert "class" in check(describe(Nasty("x"))).type


def test_what_is_no_exception_is_described() -> None:
    assert describe(5).type == "builtins.int"  # type: ignore[arg-type]


# Tracebacks.


def run_as(file: str, source: str, **names: object) -> BaseException:
    """What the function ``f`` in the source raises, as if the source stood in that file."""
    names = {"__name__": "made", **names}
    exec(compile(source, file, "exec"), names)
    return caught(names["f"])  # type: ignore[arg-type]


def test_leading_frames_of_the_machinery_are_left_out() -> None:
    machinery = Path(sitq.__file__).parent / "worker" / "run.py"
    loop = Path(asyncio.__file__).parent / "runners.py"
    inner = run_as("/app/jobs.py", "def f(): raise ValueError('x')")
    while inner.__traceback__ is not None and inner.__traceback__.tb_next is not None:
        inner.__traceback__ = inner.__traceback__.tb_next
    again = "def f(): raise error"
    error = run_as(str(loop), again, error=inner).with_traceback(inner.__traceback__)
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
    error = run_as(str(machinery), again, error=error)
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
    traceback = check(describe(error)).traceback
    assert str(machinery) not in traceback
    assert str(loop) not in traceback
    assert 'File "/app/jobs.py", line 1, in f\n' in traceback


def test_frames_of_the_machinery_below_the_task_function_stay() -> None:
    def task() -> None:
        asyncio.run(5)  # type: ignore[arg-type]

    traceback = check(describe(caught(task))).traceback
    assert "in task" in traceback
    assert "runners.py" in traceback


def test_a_traceback_of_machinery_alone_stays() -> None:
    error = run_as(os.path.join(os.path.dirname(sitq.__file__), "errors.py"), "def f(): 1 / 0")
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next
    assert "errors.py" in check(describe(error)).traceback


def test_deep_tracebacks_keep_their_last_frames() -> None:
    def down(n: int) -> None:
        if n == 0:
            raise ValueError("bottom")
        down(n - 1)

    traceback = check(describe(caught(down, 500))).traceback
    assert traceback.count("File ") == 30
    assert "\n  [472 frames left out]\n" in traceback
    assert traceback.endswith('raise ValueError("bottom")\n')

    def forever() -> None:
        forever()

    assert check(describe(caught(forever))).type == "builtins.RecursionError"


def test_long_lines_and_odd_files_are_cut(tmp_path: Path) -> None:
    long = tmp_path / "long.py"
    long.write_text(f"def f(): raise ValueError('{'x' * 1_000_000}')")
    traceback = check(describe(run_as(str(long), long.read_text()))).traceback
    assert len(traceback) < 2000
    for name in ("<stdin>", "\x1b\r\n", "a\n  File b", "n" * 100_000):
        traceback = check(describe(run_as(name, "def f(): 1 / 0"))).traceback
        assert traceback.count("\n  File ") == 2

    class Loader:
        def get_source(self, name: str) -> str:
            return interrupt()

    error = run_as("/none.py", "def f(): 1 / 0", __loader__=Loader())
    assert "line 1, in f" in check(describe(error)).traceback


def test_wide_tracebacks_keep_their_end(tmp_path: Path) -> None:
    source = (
        f"def down(n): {'y = 0; ' * 60} return 1 / n or down(n - 1) {'#' * 2000}\ndef f(): down(0)"
    )
    source = source.replace("1 / n or ", "(n > -28 or 1 / 0) and ")
    wide = tmp_path / ("d" * 200)
    wide.mkdir()
    wide = wide / ("w" * 200 + ".py")
    wide.write_text(source)
    traceback = check(describe(run_as(str(wide), source))).traceback
    assert "\n  ...\n" in traceback
    assert len(traceback) > 14_000


def test_locals_are_not_told() -> None:
    def task() -> None:
        password = "hunter" + str(2)
        raise ValueError(len(password))

    assert "hunter2" not in str(check(describe(caught(task))))


# Bytes.


@given(st.binary(max_size=200))
def test_any_bytes_become_an_error(data: bytes) -> None:
    assert isinstance(unpack_error(data), ErrorInfo)


@given(st.data())
def test_bytes_with_a_fault_become_an_error(data: st.DataObject) -> None:
    error = ExceptionGroup("x", [ValueError("a"), KeyError("b")])
    error.__cause__ = ValueError("c")
    stored = bytearray(pack_error(describe(error)))
    stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    check(unpack_error(bytes(stored)))


def chain(length: int) -> Any:
    made: Any = None
    for _ in range(length):
        made = {"type": "T", "message": "m", "cause": made}
    return made


HOSTILE: dict[str, Any] = {
    "empty": b"",
    "trailing": msgpack.packb({"type": "T", "message": "m"}) + b"\xc0",
    "not bytes": "text",
    "None": None,
    "a scalar": b"\x01",
    "a list": b"\x90",
    "no type": msgpack.packb({"message": "m"}),
    "type of bytes": msgpack.packb({"type": b"T", "message": "m"}),
    "message of a number": msgpack.packb({"type": "T", "message": 1}),
    "notes of a number": msgpack.packb({"type": "T", "message": "m", "notes": 1}),
    "notes of numbers": msgpack.packb({"type": "T", "message": "m", "notes": [1]}),
    "cause of text": msgpack.packb({"type": "T", "message": "m", "cause": "x"}),
    "notes of text": msgpack.packb({"type": "T", "message": "m", "notes": "abc"}),
    "members of text": msgpack.packb({"type": "T", "message": "m", "members": ["x"]}),
    "extension": msgpack.packb({"type": "T", "message": msgpack.ExtType(1, b"x")}),
    "depth 2,000": b"\x91" * 2000 + b"\xc0",
    "false list length": b"\xdd\xff\xff\xff\xff",
    "false map length": b"\xdf\xff\xff\xff\xff",
    "too large": b"\xc0" * (5 << 20),
    "empty maps": b"\xdd" + struct.pack(">I", 1 << 20) + b"\x80" * (1 << 20),
    "nested false lengths": b"\xdc\x00\x20" * 1000,
    "wide and deep": msgpack.packb([[[[{}] * 30] * 30] * 30] * 3),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_say_that_they_cannot_be_read(data: Any) -> None:
    tracemalloc.start()
    try:
        info = unpack_error(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert info.message.startswith("the stored error cannot be read (")
    assert peak < 4 << 20
    check(info)


def test_what_was_stored_unbounded_is_read_bounded() -> None:
    long = {
        "type": "T" * 999,
        "message": "m\x00" * 9999,
        "traceback": "t\r" * 99_999,
        "notes": ["n"] * 32,
    }
    check(unpack_error(msgpack.packb(long)))
    assert depth(check(unpack_error(msgpack.packb(chain(100))))) == 8


def test_what_was_made_by_hand_is_stored_bounded() -> None:
    made = ErrorInfo("T\ud800" * 999, "m\ud800" * 9999, "t\x00" * 99_999, ("n\x1b" * 9999,) * 99)
    for _ in range(900):
        made = ErrorInfo("T", "m", cause=made, members=(ErrorInfo("T", "x"),) * 3)
    check(unpack_error(pack_error(made)))
    flat = ErrorInfo("T\ud800" * 999, "m\ud800" * 9999, "t\x00" * 99_999, ("n\x1b" * 9999,) * 99)
    check(unpack_error(pack_error(flat)))


# One line.


@pytest.mark.parametrize(
    ("info", "line"),
    [
        (ErrorInfo("builtins.ValueError", "x"), "ValueError: x"),
        (ErrorInfo("pkg.errors.Nope", "a\n  b\tc\r\n"), "pkg.errors.Nope: a b c"),
        (ErrorInfo("builtins.KeyError", ""), "KeyError"),
        (ErrorInfo("builtins.KeyError", "\n"), "KeyError"),
        (ErrorInfo("a\nb", "\x1b[0m\x00"), "a b: \\x1b[0m\\x00"),
        (ErrorInfo("T", "x" * 9999), "T: " + "x" * 194 + "..."),
    ],
)
def test_summary_is_one_short_line(info: ErrorInfo, line: str) -> None:
    assert summary(info) == line


def test_describing_leaves_no_trace() -> None:
    error = caught(fail, ValueError("x"))
    before = (error.__traceback__, error.__cause__, error.__context__, error.args, sys.exc_info())
    describe(error)
    assert before == (
        error.__traceback__,
        error.__cause__,
        error.__context__,
        error.args,
        sys.exc_info(),
    )

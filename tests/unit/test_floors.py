"""Imports go down the floors of the house only, and its rooms stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sitq

ROOT = Path(sitq.__file__).parent
FILES = {
    ".".join(("sitq", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(ROOT.rglob("*.py"))
}

FLOORS = [
    ["sitq.__main__"],
    ["sitq.cli", "sitq.sync", "sitq.testing", "sitq.transfer"],
    ["sitq.queue", "sitq.worker"],
    ["sitq.mapping"],
    ["sitq.group"],
    ["sitq.completed"],
    ["sitq.handle", "sitq.lease", "sitq.calls"],
    ["sitq.backends.url"],
    ["sitq.backends.sqlite", "sitq.backends.postgres"],
    [
        "sitq.backends.commit",
        "sitq.backends.base",
        "sitq.backends.families",
        "sitq.backends.lifetime",
        "sitq.backends.loop",
        "sitq.backends.pruning",
        "sitq.backends.silence",
        "sitq.backends.sql",
        "sitq.backends.states",
        "sitq.backends.waiters",
    ],
    [
        "sitq.lifecycle",
        "sitq.registry",
        "sitq.serialization",
        "sitq.codec",
        "sitq.leaves",
        "sitq.failure",
        "sitq.context",
        "sitq.options",
    ],
    ["sitq.retry", "sitq.model"],
    ["sitq.clock", "sitq.errors", "sitq.naming"],
]
APART = [{"sitq.queue", "sitq.worker"}, {"sitq.backends.sqlite", "sitq.backends.postgres"}]
EXEMPT = {"sitq", "sitq.backends"}


def room(module: str) -> str:
    """The entry of `FLOORS` that a module belongs to."""
    for floor in FLOORS:
        for name in floor:
            if module == name or module.startswith(f"{name}."):
                return name
    raise AssertionError(f"{module} is on no floor")


def level(module: str) -> int:
    return next(n for n, floor in enumerate(FLOORS) if room(module) in floor)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    )


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those below ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(tree):
        if is_type_checking(child):
            assert isinstance(child, ast.If)
            for other in child.orelse:
                yield other
                yield from nodes(other)
        else:
            yield child
            yield from nodes(child)


def imports(module: str) -> set[str]:
    """The modules of sitq that a module imports, wherever in its text it does."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in nodes(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                below = f"{base}.{alias.name}"
                found.add(below if below in FILES else base)
    return {name for name in found if name == "sitq" or name.startswith("sitq.")}


@pytest.mark.parametrize("module", [name for name in FILES if name not in EXEMPT])
def test_imports_go_down(module: str) -> None:
    for other in imports(module):
        assert other in FILES
        assert other not in EXEMPT, f"{module} imports {other}, which imports everything"
        assert level(other) >= level(module), f"{module} imports {other}, a floor above it"
        if room(module) != room(other):
            assert {room(module), room(other)} not in APART, f"{module} imports {other}"


def test_there_is_no_circle() -> None:
    TopologicalSorter({name: imports(name) for name in FILES}).prepare()


def test_relative_and_hidden_imports_are_seen() -> None:
    tree = ast.parse("if TYPE_CHECKING:\n import a\nelse:\n import b\ndef f():\n  import c")
    found = [node.names[0].name for node in nodes(tree) if isinstance(node, ast.Import)]
    assert found == ["b", "c"]


@pytest.mark.parametrize("module", list(FILES))
def test_files_are_short(module: str) -> None:
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= 400


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Its lines, without those of its docstring."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        text = function.body[0]
        assert text.end_lineno is not None
        lines -= text.end_lineno - text.lineno + 1
    return lines


@pytest.mark.parametrize("module", list(FILES))
def test_functions_are_short(module: str) -> None:
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert length(node) <= 50, f"{module}.{node.name} has {length(node)} lines"

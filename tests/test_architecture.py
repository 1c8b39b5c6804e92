"""The house stays as it was laid: floors, walls between rooms, sizes, what may be imported where.

Imports are read from the syntax tree, so lazy ones inside functions count too.
"""

from __future__ import annotations

import ast
import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = CHECKOUT / "ch_image"

# Imports go down, or stay in their own room; two rooms on one floor never meet.
FLOORS = [
    {"typed", "regex", "__init__"},
    {"errors"},
    {"report", "resources", "sandbox"},
    {"model", "fs"},
    {"dockerfile", "layers", "registry", "force", "storage"},
    {"transfer"},
    {"formats"},
    {"build"},
    {"oci"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
GROUND = {"__future__", "os", "sys", "ctypes", "struct", "fcntl", "errno", "gc"}
GROUND |= {"_signal", "_socket", "_thread", "select"}  # C modules whose wrappers pull in enum
HEAVY = {"lark", "yaml", "requests", "rich", "zstandard", "isal"}
BANNED = {"dataclasses", "enum", "pickle", "tarfile.extract"}
BANNED_NAMES = {"utils", "helpers", "misc", "common"}
LINES = {"ch_image": 400, "tests": 600}
FUNCTION_LINES = 60
WORDS_OF_UNDONE = ("TODO", "FIXME", "XXX", "HACK")


class Import(NamedTuple):
    """One import of `module`, at `line`; `lazy` inside a function, `typing` for checkers only."""

    module: str
    line: int
    lazy: bool
    typing: bool


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(tree: ast.AST, lazy: bool = False, typing: bool = False) -> Iterator[Import]:
    """Every import below `tree`; `from a import b` counts as `a.b`, which may be a module."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(name.name, node.lineno, lazy, typing)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for name in node.names:
                yield Import(f"{node.module}.{name.name}", node.lineno, lazy, typing)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for branch, checked in ((node.body, True), (node.orelse, typing)):
                for statement in branch:
                    yield from imports(ast.Module([statement], []), lazy, checked)
        else:
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(node, lazy or function, typing)


def room(path: Path) -> str:
    """The top folder or top module of ours that `path` belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((CHECKOUT / "tests").rglob("*.py"))
named = pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(CHECKOUT)))


def test_every_room_stands_on_a_floor() -> None:
    assert {room(path) for path in SOURCES} <= set(FLOOR_OF)


@named
def test_imports_go_down_or_stay_in_their_room(path: Path) -> None:
    mine = room(path)
    wrong = []
    for item in imports(parsed(path)):
        parts = item.module.split(".")
        if parts[0] != "ch_image":
            continue
        theirs = parts[1] if len(parts) > 1 and parts[1] in FLOOR_OF else "__init__"
        if theirs != mine and FLOOR_OF[theirs] >= FLOOR_OF[mine]:
            wrong.append(f"line {item.line}: {mine} may not import {item.module}")
    assert not wrong


@pytest.mark.parametrize("path", sorted((PACKAGE / "sandbox").glob("*.py")), ids=lambda p: p.name)
def test_the_sandbox_stands_alone(path: Path) -> None:
    for item in imports(parsed(path)):
        top = item.module.partition(".")[0]
        alone = top in GROUND or item.module.startswith("ch_image.sandbox.")
        below = item.module.startswith("ch_image.errors.") or item.module == "ch_image.sandbox"
        assert item.typing or alone or below, f"line {item.line}: {item.module}"


def test_each_heavy_library_is_imported_lazily_by_one_module() -> None:
    users: dict[str, set[str]] = {name: set() for name in HEAVY}
    for path in SOURCES:
        for item in imports(parsed(path)):
            top = item.module.partition(".")[0]
            if top in HEAVY and not item.typing:
                users[top].add(str(path.relative_to(CHECKOUT)))
                assert item.lazy, f"{path}:{item.line}: {top} is imported when the module is"
    crowded = {name: modules for name, modules in users.items() if len(modules) > 1}
    assert not crowded


@named
def test_no_module_imports_what_is_slow_or_unsafe(path: Path) -> None:
    banned = BANNED if path.name == "typed.py" else BANNED | {"typing"}
    found = [item for item in imports(parsed(path)) if item.module.partition(".")[0] in banned]
    assert not found


@named
def test_nothing_is_named_after_having_no_name(path: Path) -> None:
    assert not BANNED_NAMES & {part.removesuffix(".py") for part in path.parts}


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=lambda p: str(p.relative_to(CHECKOUT)))
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    limit = LINES[path.relative_to(CHECKOUT).parts[0]]
    assert len(text.splitlines()) <= limit
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{node.name} has {length} lines"


@named
def test_modules_say_what_they_are_and_leave_nothing_undone(path: Path) -> None:
    tree = parsed(path)
    if tree.body:
        assert ast.get_docstring(tree), "no module docstring"
    undone = [word for word in WORDS_OF_UNDONE if word in path.read_text()]
    assert not undone


@named
def test_only_the_face_prints_exits_or_asks_the_environment(path: Path) -> None:
    """Below cli/ values are handed down; a sandbox process of its own may exit, by os._exit."""
    if room(path) == "cli" or path.name == "__main__.py":
        return
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in {"print", "sys.exit", "exit"}, node.lineno
        if isinstance(node, ast.Attribute) and room(path) != "sandbox":
            assert ast.unparse(node) not in {"os.environ", "os.getenv"}, node.lineno


def test_the_tests_never_mock_our_own_code() -> None:
    """A faked clock or network end is a fake; a faked module of ours proves nothing."""
    for path in TESTS:
        for item in imports(parsed(path)):
            assert not item.module.startswith("unittest.mock"), f"{path}:{item.line}"


def test_no_test_is_passed_over(request: pytest.FixtureRequest) -> None:
    """By itself pytest enters no directory called build, whatever is in there."""
    skipped = request.config.getini("norecursedirs")
    for path in (CHECKOUT / "tests").rglob("test_*.py"):
        for name in path.relative_to(CHECKOUT).parts[:-1]:
            assert not any(fnmatch.fnmatch(name, pattern) for pattern in skipped), path


def test_tests_that_documents_name_are_there() -> None:
    there = set(re.findall(r"^def (test_\w+)", "".join(p.read_text() for p in TESTS), re.M))
    for path in (CHECKOUT / "docs").glob("*.md"):
        named = set(re.findall(r"`(test_\w+)`", path.read_text()))
        assert named <= there, f"{path.name} names tests that are gone: {named - there}"

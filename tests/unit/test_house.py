"""The house: which rooms there are, where arrows may point, how large a file and a folder may be.

Rules and reasons stand in docs/architecture.md.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES, MAX_FILES = 350, 14
OPEN_SETS = {"commands"}
"""Folders with a file for each row of a table: as many as there are rows, and the table is what one reads."""

HANDLER = ROOT / "handler" / "smartbatch_worker"
PLANES = {
    "smartbatch_worker": HANDLER,
    "smartbatch": ROOT / "control" / "smartbatch",
    "smartbatch_load": ROOT / "loadtest",
}

ARROWS = {
    "errors": set(),
    "contract": set(),
    "process": set(),
    "kernels": {"process"},
    "formats": {"kernels"},
    "flow": {"formats", "kernels"},
    "models": set(),
    "forward": {"models", "kernels", "process"},
    "torchserve": {"flow", "process"},
}
"""Of the handler's rooms: which others each may import from; all may from `contract` and `errors`."""

CONTRACT_IMPORTS = {"smartbatch_worker"}
"""Of what is not in the standard library: `contract` is read by both planes, and by commands that must start fast."""


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the three planes: dotted name and file."""
    for package, folder in PLANES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *(part for part in parts if part != "__init__"))), path


NAMES = dict(modules())


@cache
def imports_of(name: str) -> dict[str, bool]:
    """Modules that a module imports, and whether when it is imported itself; those for type checkers do not count."""
    found: dict[str, bool] = {}

    def visit(node: ast.AST, at_import: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.name] = found.get(alias.name, False) or at_import
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                target = inner if inner in NAMES else node.module
                found[target] = found.get(target, False) or at_import
        for child in ast.iter_child_nodes(node):
            is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            visit(child, at_import and not is_function)

    visit(ast.parse(NAMES[name].read_text(encoding="utf-8")), True)
    return found


def room_of(name: str) -> str:
    """The part after the package's name."""
    return name.partition(".")[2].partition(".")[0]


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("smartbatch_worker.")])
def test_arrows_in_the_handler_point_down(name: str) -> None:
    room = room_of(name)
    assert room in ARROWS, f"{room} is no room of the handler; add it to ARROWS and to docs/architecture.md"
    allowed = ARROWS[room] | {room, "contract", "errors"}
    if room in ("contract", "errors"):
        allowed = {room}
    others = {room_of(target) for target in imports_of(name) if target.startswith("smartbatch_worker.")}
    assert others <= allowed, f"{name} imports from {sorted(others - allowed)}; {room} may from {sorted(allowed)}"


def test_the_contract_needs_no_library() -> None:
    for name in NAMES:
        if room_of(name) == "contract":
            roots = {target.partition(".")[0] for target in imports_of(name)}
            assert roots <= {*sys.stdlib_module_names, *CONTRACT_IMPORTS}, name


def test_the_handler_does_not_know_the_control_plane() -> None:
    for name in NAMES:
        if name.startswith("smartbatch_worker"):
            roots = {target.partition(".")[0] for target in imports_of(name)}
            assert not roots & {"smartbatch", "smartbatch_load"}, name


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside functions count: they would hide a cycle, not end it."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path[path.index(name) :], name))
        if name in done:
            return
        for target in imports_of(name):
            if target in NAMES:
                visit(target, (*path, name))
        done.add(name)

    for name in NAMES:
        visit(name, ())


@pytest.mark.parametrize("folder", PLANES.values(), ids=str)
def test_files_and_folders_are_of_a_size_to_read(folder: Path) -> None:
    # The parts of one C file are one unit, and long by nature: tables of sums, not control flow.
    sources = [path for path in folder.rglob("*") if path.suffix == ".py"]
    long = {
        path.name: lines
        for path in sources
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert not long, f"over {MAX_LINES} lines: {long}"
    folders = {path.parent for path in sources if path.parent.name not in OPEN_SETS}
    full = {
        place.name: count for place in folders if (count := sum(path.parent == place for path in sources)) > MAX_FILES
    }
    assert not full, f"over {MAX_FILES} files: {full}"


def test_every_room_says_what_it_is_for() -> None:
    for name, path in NAMES.items():
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{name} has no docstring"

"""A handler's file as data: its one class, methods, what they call. Nothing in it is executed or imported."""

from __future__ import annotations

import ast
import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from smartbatch.errors import UsageError

Function = ast.FunctionDef | ast.AsyncFunctionDef
_MAX_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Method:
    """One method, or function of the module."""

    name: str
    node: Function

    @property
    def line(self) -> int:
        """Where it begins."""
        return self.node.lineno

    @property
    def calls(self) -> dict[str, int]:
        """What it calls, dotted as it is written ("self.model", "super.handle"), and the first line."""
        found: dict[str, int] = {}
        for node in ast.walk(self.node):
            if isinstance(node, ast.Call) and (name := dotted(node.func)):
                found.setdefault(name, node.lineno)
        return found

    @property
    def reads(self) -> dict[str, int]:
        """The attributes of self that it reads, and the first line."""
        found: dict[str, int] = {}
        for node in ast.walk(self.node):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and dotted(node.value) == "self":
                found.setdefault(node.attr, node.lineno)
        return found

    @property
    def statements(self) -> list[ast.stmt]:
        """Without its docstring."""
        body = self.node.body
        return body[1:] if ast.get_docstring(self.node, clean=False) is not None else body


@dataclass(frozen=True, slots=True)
class HandlerSource:
    """What a handler's file defines."""

    file: Path
    name: str
    """Of the class, or of the function that is the entry point."""
    line: int
    base: str
    """Name of the class it is derived from, beyond those of this file; "" where there is none."""
    methods: Mapping[str, Method]
    """Those of classes of this file that it is derived from included."""
    values: Mapping[str, ast.Assign]
    """What its class, or the module, sets, by name."""
    functions: Mapping[str, Method]
    """Of the module."""
    others: tuple[str, ...]
    """Further classes that might be the handler; TorchServe takes a file with one."""

    def assigned(self) -> set[str]:
        """The attributes of self that its methods set."""
        return {
            node.attr
            for method in self.methods.values()
            for node in ast.walk(method.node)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and dotted(node.value) == "self"
        }


def find_handler(given: str) -> Path:
    """The file of a handler, named by its path, or as torch-model-archiver names TorchServe's own.

    Raises:
        UsageError: there is no such file.
    """
    path = Path(given)
    if path.is_file():
        return path
    installed = importlib.util.find_spec("ts")  # looks, and imports nothing
    if installed is not None and given.isidentifier():
        for folder in installed.submodule_search_locations or ():
            if (path := Path(folder) / "torch_handler" / f"{given}.py").is_file():
                return path
    raise UsageError(f"HANDLER must be a Python file, or one of TorchServe's own as image_classifier; got {given!r}")


def read_handler(file: Path) -> HandlerSource:
    """Read a handler's file.

    Raises:
        UsageError: it is no Python, or has no handler.
    """
    if file.stat().st_size > _MAX_BYTES:
        raise UsageError(f"{file} has more than {_MAX_BYTES} bytes: that is no handler's source")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its string literals, which are not ours to judge
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{file} is not Python that this version reads: {error}") from error
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    functions = {node.name: Method(node.name, node) for node in tree.body if isinstance(node, Function)}
    module_values = _values(tree.body)
    inner = {base for node in classes.values() for base in _bases(node)}
    candidates = [name for name in classes if name not in inner and _is_handler(name, classes)]
    if not candidates:
        if "handle" not in functions:
            raise UsageError(f"{file} has no handler: no class with a handle() or a base, and no function handle()")
        entry = functions["handle"]
        return HandlerSource(file, "handle", entry.line, "", {"handle": entry}, module_values, functions, ())
    name, *others = candidates
    lineage = list(_lineage(name, classes))
    methods: dict[str, Method] = {}
    values = dict(module_values)
    for node in reversed(lineage):
        methods |= {each.name: Method(each.name, each) for each in node.body if isinstance(each, Function)}
        values |= _values(node.body)
    outer = [base for node in lineage for base in _bases(node) if base not in classes and base not in ("ABC", "object")]
    base = outer[0] if outer else ""
    return HandlerSource(file, name, classes[name].lineno, base, methods, values, functions, tuple(others))


def dotted(node: ast.expr) -> str:
    """A name as it is written, such as self.model or torch.jit.load; calls within are left out; "" for none."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else f".{node.attr}"
    return dotted(node.func) if isinstance(node, ast.Call) else ""


def _is_handler(name: str, classes: Mapping[str, ast.ClassDef]) -> bool:
    lineage = list(_lineage(name, classes))
    names = {each.name for node in lineage for each in node.body if isinstance(each, Function)}
    return "handle" in names or any(base.endswith(_HANDLERS) for node in lineage for base in _bases(node))


_HANDLERS = ("Handler", "ImageClassifier", "ImageSegmenter", "ObjectDetector", "TextClassifier")


def _lineage(name: str, classes: Mapping[str, ast.ClassDef]) -> Iterator[ast.ClassDef]:
    """A class, and those of the file that it is derived from, itself first."""
    waiting, seen = [name], set()
    while waiting:
        name = waiting.pop(0)
        if name in classes and name not in seen:
            seen.add(name)
            yield classes[name]
            waiting += _bases(classes[name])


def _bases(node: ast.ClassDef) -> list[str]:
    return [dotted(base).rpartition(".")[2] for base in node.bases]


def _values(body: list[ast.stmt]) -> dict[str, ast.Assign]:
    return {
        target.id: node
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

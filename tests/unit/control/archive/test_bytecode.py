"""Bytecode in the archive: what Python would make of the source, and the same bytes wherever and whenever."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from smartbatch.archive.stage import write_bytecode

SOURCE = (
    "def one():\n    def inner(value='identifier', other='no identifier', *, last=(1, 'both')):\n        return last\n"
)
SOURCE += "    return inner\n"


def written(folder: Path, text: str = SOURCE) -> tuple[Path, Path]:
    """An installed module, and its copy with bytecode."""
    installed, staged = folder / "installed" / "some.py", folder / "staged" / "some.py"
    for path in (installed, staged):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    write_bytecode(installed, staged)
    return installed, staged


def test_same_bytes_wherever_it_is_and_whether_python_had_compiled_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    installed, staged = written(tmp_path / "here")
    assert Path(importlib.util.cache_from_source(str(installed))).exists(), "the next archive need not compile it"
    compiled = Path(importlib.util.cache_from_source(str(staged)))
    first = compiled.read_bytes()
    assert str(tmp_path).encode() not in first
    write_bytecode(installed, staged)
    assert compiled.read_bytes() == first
    _, elsewhere = written(tmp_path / "elsewhere")
    assert Path(importlib.util.cache_from_source(str(elsewhere))).read_bytes() == first


def test_what_is_imported_knows_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, staged = written(tmp_path)
    monkeypatch.syspath_prepend(str(staged.parent))
    monkeypatch.delitem(sys.modules, "some", raising=False)
    module = importlib.import_module("some")
    monkeypatch.delitem(sys.modules, "some")
    inner = module.one()
    assert inner.__code__.co_filename == str(staged)
    assert inner() == (1, "both")


def test_what_is_no_python_is_told(tmp_path: Path) -> None:
    with pytest.raises(SyntaxError):
        written(tmp_path, "def\n")

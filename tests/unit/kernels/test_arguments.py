"""The structs that Python fills are those that C reads: a C compiler compares them, field by field."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
from smartbatch_worker.kernels import json_numbers, native, pixels
from smartbatch_worker.kernels.arguments import Arguments, Functions, numbers, pointers
from smartbatch_worker.kernels.convolutions import compiled

LIBRARIES: dict[str, Functions] = {
    "json_numbers.c": json_numbers.FUNCTIONS,
    "pixels.c": pixels.FUNCTIONS,
    "convolutions/winograd.c": compiled.FUNCTIONS,
}


class Scale(Arguments):
    _fields_ = pointers("to", "x") + numbers("count", "relu")


SCALE = """#include <stdint.h>
struct scale { float *to; const float *x; int64_t count, relu; };
void scale(const struct scale *given) { (void)given; }
"""
"""A function that takes what `Scale` says."""


def comparison(source: Path, functions: Functions) -> str:
    """A C file that compiles only where the functions of `source` take and give what Python believes."""
    lines = [f'#include "{source}"', "#include <stddef.h>"]
    for arguments in {taken for taken, _ in functions.values() if taken is not None}:
        struct = f"struct {arguments.__name__.lower()}"
        size = 0
        for name, kind in arguments._fields_:  # type: ignore[misc]
            offset, size = getattr(arguments, name).offset, size + ctypes.sizeof(kind)
            field = f"(({struct}){{0}}).{name}"
            is_number = int(kind is ctypes.c_int64)
            lines.append(f'_Static_assert(offsetof({struct}, {name}) == {offset}, "where {name} stands");')
            lines.append(f'_Static_assert(sizeof {field} == {ctypes.sizeof(kind)}, "the size of {name}");')
            lines.append(f'_Static_assert(_Generic({field}, int64_t: 1, default: 0) == {is_number}, "{name}");')
        # Nothing between the fields and nothing behind them: C has no field that Python does not name.
        lines.append(f'_Static_assert(sizeof({struct}) == {size}, "the size of {struct}");')
    for name, (given, result) in functions.items():
        parameter = "void" if given is None else f"const struct {given.__name__.lower()} *"
        lines.append(f"{'void' if result is None else 'int64_t'} (*const check_{name})({parameter}) = {name};")
    return "\n".join([*lines, ""])


def compile_it(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "comparison.c"
    file.write_text(text)
    command = ["cc", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-march=native", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("source", LIBRARIES)
def test_c_and_python_have_the_same_structs(source: str, tmp_path: Path) -> None:
    done = compile_it(comparison(native.HERE / source, LIBRARIES[source]), tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_struct_is_among_them() -> None:
    compared = {arguments for functions in LIBRARIES.values() for arguments, _ in functions.values()} - {None}
    assert compared == {known for known in Arguments.__subclasses__() if known.__module__ != __name__}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("float *to; const float *x", "const float *x; float *to"),  # exchanged
        ("int64_t count, relu", "int64_t count, relu, more"),  # added
        ("int64_t count, relu", "int64_t count; int relu"),  # narrower, with four bytes behind it
        ("int64_t count, relu", "int64_t count, clips"),  # renamed
        ("int64_t count, relu", "int64_t count; void *relu"),  # of another kind
        ("scale(const struct scale *given)", "scale(const struct scale *given, int x)"),
        ("void scale(const struct scale *given) { (void)given; }", "int scale(const struct scale *g) { return !g; }"),
    ],
)
def test_a_difference_is_found(old: str, new: str, tmp_path: Path) -> None:
    source = tmp_path / "scale.c"
    for text, is_same in ((SCALE, True), (SCALE.replace(old, new), False)):
        source.write_text(text)
        done = compile_it(comparison(source, {"scale": (Scale, None)}), tmp_path)
        assert (done.returncode == 0) is is_same, done.stderr


@pytest.mark.parametrize("wrong", [{"count": 1, "relu": 0, "to": None}, {"count": 1, "relu": 0, "to": None, "y": None}])
def test_every_field_is_named_and_no_other(wrong: dict[str, int | None]) -> None:
    assert Scale(to=None, x=None, count=1, relu=0).count == 1
    with pytest.raises(AssertionError, match=r"Scale: \['x'"):
        Scale(**wrong)

"""How Python calls the C code: a function takes one struct, all of it pointers and int64_t, and no field is left out.

C has the same struct beside the function. `tests/unit/kernels/test_arguments.py` has a compiler compare the two, field
by field, so that they cannot part.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, ClassVar

Fields = list[tuple[str, type[ctypes.c_void_p] | type[ctypes.c_int64]]]


def pointers(*names: str) -> Fields:
    """Fields that hold a tensor's `data_ptr()`, or None for NULL: whoever calls keeps the tensor meanwhile."""
    return [(name, ctypes.c_void_p) for name in names]


def numbers(*names: str) -> Fields:
    """Fields that hold a size or a flag."""
    return [(name, ctypes.c_int64) for name in names]


class Arguments(ctypes.Structure):
    """What one C function is given, the destination first: `Pad` is C's `struct pad`."""

    names: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        cls.names = frozenset(name for name, *_ in cls._fields_)

    def __init__(self, **values: Any) -> None:
        # ctypes takes a name that is none for an attribute, and a field that nobody named for zero.
        assert values.keys() == self.names, f"{type(self).__name__}: {sorted(values.keys() ^ self.names)}"
        super().__init__(**values)


Functions = Mapping[str, tuple[type[Arguments] | None, type[ctypes.c_int64] | None]]
"""Of a library, by name: what a function is given and what it gives."""


def declare(library: ctypes.CDLL, functions: Functions) -> ctypes.CDLL:
    """The library, told what its functions take and give."""
    for name, (arguments, result) in functions.items():
        function = getattr(library, name)
        function.argtypes = [] if arguments is None else [ctypes.POINTER(arguments)]
        function.restype = result
    return library

"""The usual JSON body to float32 in one pass of C (json_numbers.c); what is unusual, or wrong, is left to simdjson."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import torch

from smartbatch_worker.kernels import native
from smartbatch_worker.kernels.arguments import Arguments, Functions, declare, numbers, pointers

MAX_DIMS = 8
"""As json_numbers.c has it."""


class Numbers(Arguments):
    _fields_ = pointers("numbers", "shape", "body") + numbers("num_bytes", "capacity", "max_lists")


FUNCTIONS: Functions = {"json_numbers": (Numbers, ctypes.c_int64), "most_numbers": (Numbers, ctypes.c_int64)}
_library: ctypes.CDLL | None = None


def prepare(cache_dir: Path) -> None:
    """Compile and load the C code; a fifth of a second, once a process. Without a compiler `read` reads nothing.

    Args:
        cache_dir: where what the C compiler makes is kept.
    """
    global _library
    if _library is None and (library := native.build_if_possible("json_numbers", cache_dir)) is not None:
        _library = declare(library, FUNCTIONS)


def read(body: bytes | bytearray, max_elements: int, max_lists: int) -> torch.Tensor | None:
    """Read `{"data": nested lists of numbers}` into float32, as simdjson's doubles rounded to float32 would be.

    Returns:
        The tensor; or None for a body that has other keys, is no such JSON, is ragged or empty, has more numbers or
        lists than accepted, numbers of more than 19 digits, or numbers that are no normal float32.
    """
    if _library is None:
        return None
    text = np.frombuffer(body, dtype=np.uint8)
    shape = (ctypes.c_int64 * MAX_DIMS)()
    arguments = Numbers(
        numbers=None,
        shape=ctypes.addressof(shape),
        body=text.ctypes.data,
        num_bytes=text.size,
        capacity=0,
        max_lists=max_lists,
    )
    size = _library.most_numbers(arguments)
    if size > max_elements:
        return None
    read = np.empty(size, dtype=np.float32)
    arguments.numbers, arguments.capacity = read.ctypes.data, size
    num_dims = _library.json_numbers(arguments)
    return torch.from_numpy(read).reshape(shape[:num_dims]) if num_dims else None

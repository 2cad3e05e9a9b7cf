"""The usual JSON body to float32 in one pass of C (json_numbers.c); what is unusual, or wrong, is left to simdjson."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import torch

from smartbatch_worker.kernels import native

MAX_DIMS = 8
"""As json_numbers.c has it."""

_library: ctypes.CDLL | None = None


def prepare(cache_dir: Path) -> None:
    """Compile and load the C code; a fifth of a second, once a process. Without a compiler `read` reads nothing.

    Args:
        cache_dir: where what the C compiler makes is kept.
    """
    global _library
    if _library is not None or (library := native.build_if_possible("json_numbers", cache_dir)) is None:
        return
    library.count_bytes.restype = ctypes.c_int64
    library.count_bytes.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint8]
    library.json_numbers.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, *[ctypes.c_int64] * 2]
    library.json_numbers.argtypes += [ctypes.c_void_p]
    _library = library


def read(body: bytes | bytearray, max_elements: int, max_lists: int) -> torch.Tensor | None:
    """Read `{"data": nested lists of numbers}` into float32, as simdjson's doubles rounded to float32 would be.

    Returns:
        The tensor; or None for a body that has other keys, is no such JSON, is ragged or empty, has more numbers or
        lists than accepted, numbers of more than 19 digits, or numbers that are no normal float32.
    """
    if _library is None:
        return None
    text = np.frombuffer(body, dtype=np.uint8)
    # Between N numbers in lists of even length stand N - 1 commas.
    size = _library.count_bytes(text.ctypes.data, text.size, ord(",")) + 1
    if size > max_elements:
        return None
    numbers = np.empty(size, dtype=np.float32)
    shape = (ctypes.c_int64 * MAX_DIMS)()
    num_dims = _library.json_numbers(text.ctypes.data, text.size, numbers.ctypes.data, size, max_lists, shape)
    return torch.from_numpy(numbers).reshape(shape[:num_dims]) if num_dims else None

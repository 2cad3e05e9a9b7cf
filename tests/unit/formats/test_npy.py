"""npy: a header that lies, runs code or says what no array can have is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.unit.formats.bodies import CHW, Refused, assert_refused, npy


def npy_header(text: str, data: bytes = b"") -> bytes:
    padded = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + data


BROKEN: dict[str, Refused] = {
    "npy with objects": (npy(np.array([{}, []], dtype=object)), "", 400, "numbers"),
    "npy with text": (npy(np.array(["a"])), "", 400, "numbers"),
    "npy NaN": (npy(np.full((3, 2, 2), np.nan, np.float32)), "", 422, "NaN"),
    "npy truncated": (npy(CHW)[:-1], "", 400, "bytes"),
    "npy that declares a giant": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000, 1000000)}"),
        "",
        400,
        "declares",
    ),
    "npy with control characters for spaces": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,)} \x1e ", b"\0" * 16),
        "",
        400,
        "header",
    ),
    "npy with code in its header": (npy_header("__import__('os').system('true')"), "", 400, "header"),
    "npy with a negative size": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4)}", b"\0" * 16),
        "",
        400,
        ".",
    ),
    "npy of no rows and too many columns": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9999999999999999999)}"),
        "",
        400,
        "beyond what any array can have",
    ),
    "npy of no rows and too many of everything": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9999999999, 9999999999)}"),
        "",
        400,
        "beyond what any array can have",
    ),
    "npy of NumPy's Python 2": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1L,)}", b"\0" * 4),
        "",
        400,
        "header",
    ),
    "npy of version 1.8": (npy(CHW).replace(b"\x01\x00", b"\x01\x08", 1), "", 400, "version"),
    "npy whose shape is a number": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (4)}", b"\0" * 16),
        "",
        400,
        "tuple",
    ),
    "npy with a fourth field": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'x': 1}", b"\0" * 16),
        "",
        400,
        "alone",
    ),
    "npy without a dtype": (
        npy_header("{'fortran_order': False, 'shape': (4,), 'shape': (4,)}", b"\0" * 16),
        "",
        400,
        "descr",
    ),
    "npy of a dtype that does not exist": (
        npy_header("{'descr': '<q4', 'fortran_order': False, 'shape': (4,)}", b"\0" * 16),
        "",
        400,
        "header",
    ),
    "npy with a header that nests": (npy_header("(" * 5000 + ")" * 5000), "", 400, "header"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_bodies_say_what_is_wrong(name: str) -> None:
    assert_refused(BROKEN[name])

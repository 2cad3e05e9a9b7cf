"""NumPy's .npy files to one tensor; objects (pickle) are never loaded."""

from __future__ import annotations

import functools
import math
import re
import struct
from typing import Any

import numpy as np
import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.inputs import describe_inputs
from smartbatch_worker.errors import MalformedBody, WrongInputs
from smartbatch_worker.formats.limits import MAX_DIMS, check_bytes, check_count, first_line, to_float32

MAX_HEADER_BYTES = 10_000
_FIELD = re.compile(
    r"""\s* (['"]) (?: descr \1 \s*:\s* (['"]) (?P<descr> [<>|=]? [A-Za-z] \d{0,4} ) \2
                 | fortran_order \1 \s*:\s* (?P<fortran_order> True | False )
                 | shape \1 \s*:\s* \( (?P<shape> (?: (?: \s* \d{1,19} \s* , )+ (?: \s* \d{1,19} )? )? ) \s* \)
                 ) \s* (?: , | $ )""",
    re.ASCII | re.VERBOSE,
)
_NO_SPACES = re.compile(r"[\v\x1c-\x1f]")  # to Python's str and re they are, to NumPy, which reads Python's source, not
_NUMERIC_KINDS = "fiu"  # floats, signed and unsigned integers; objects, strings, times and complex are refused


def begins(body: bytes | bytearray) -> bool:
    """Whether the first bytes are those of a .npy file."""
    return body[:6] == b"\x93NUMPY"


def read(body: bytes | bytearray, config: WorkerConfig) -> torch.Tensor:
    """Read a NumPy .npy file; uint8 stays uint8, every other numeric type becomes float32.

    Source: the format's description in numpy.lib.format. Objects (pickle) are never loaded.
    """
    array = _array(body, config.max_elements, _NUMERIC_KINDS)
    if array.size == 0:
        return torch.empty(array.shape)
    if array.dtype == np.uint8:
        return torch.from_numpy(_writable(array))
    with np.errstate(over="ignore"):
        return to_float32(torch.from_numpy(_writable(array.astype(np.float32, copy=False))))


def read_exact(body: bytes | bytearray, max_elements: int) -> torch.Tensor:
    """Read a NumPy .npy file as it is: numbers of any type and truth values; uint16 to uint64 as torch has them."""
    array = _array(body, max_elements, _NUMERIC_KINDS + "b")
    return torch.from_numpy(_writable(array.astype(array.dtype.newbyteorder("="), copy=False)))


def read_named(body: bytes | bytearray, config: WorkerConfig) -> dict[str, torch.Tensor]:
    """Read the one input of a model that has one, as it is."""
    specs = config.inputs or ()
    if len(specs) != 1:
        raise WrongInputs(f"a .npy file is one tensor; the model takes {describe_inputs(specs)}: send .npz")
    return {specs[0].name: read_exact(body, config.max_elements)}


def _array(body: bytes | bytearray, max_elements: int, kinds: str) -> np.ndarray[Any, Any]:
    shape, fortran_order, dtype, offset = _header(body)
    if dtype.kind not in kinds or dtype.itemsize > 8:
        raise MalformedBody(f".npy arrays must hold numbers of at most 8 bytes; got dtype {dtype}")
    if len(shape) > MAX_DIMS:
        raise MalformedBody(f".npy arrays take at most {MAX_DIMS} dimensions; got {len(shape)}")
    check_bytes(len(body) - offset, math.prod(shape) * dtype.itemsize, shape)
    check_count(math.prod(shape), max_elements)
    if math.prod(shape) == 0:
        return np.empty(shape, dtype=dtype)
    return np.frombuffer(body, dtype=dtype, offset=offset).reshape(shape, order="F" if fortran_order else "C")


def _header(body: bytes | bytearray) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """(shape, Fortran order, dtype, offset of the data).

    The header is a Python dictionary as NumPy writes it, but no Python reads it: bodies are decoded in several threads,
    and `ast.literal_eval` of Python 3.11 now and then fails when two of them call it (CPython issue 106905). What
    Python 2 wrote, and NumPy's own reader repairs, is refused.
    """
    version = bytes(body[6:8])
    length_format, start = ("<H", 10) if version == b"\x01\x00" else ("<I", 12)
    if version not in (b"\x01\x00", b"\x02\x00", b"\x03\x00") or len(body) < start:
        raise MalformedBody("the .npy header is cut off, or of a version that does not exist")
    (length,) = struct.unpack_from(length_format, body, start - struct.calcsize(length_format))
    if length > MAX_HEADER_BYTES or len(body) < start + length:
        raise MalformedBody(f"the .npy header is cut off, or longer than {MAX_HEADER_BYTES} bytes")
    return *_meaning(bytes(body[start : start + length])), start + length


@functools.lru_cache(maxsize=64)
def _meaning(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype; kept, since a client's requests mostly have one header."""
    fields = _fields(header.decode("ascii", "replace"))
    try:
        dtype = np.dtype(fields["descr"])
    except TypeError as error:
        raise MalformedBody(f"the .npy header is malformed: {first_line(error)}") from None
    shape = tuple(int(size) for size in fields["shape"].split(",") if size.strip())
    return shape, fields["fortran_order"] == "True", dtype


def _fields(header: str) -> dict[str, str]:
    """The texts of `descr`, `fortran_order` and `shape`, which may come in any order."""
    fields: dict[str, str] = {}
    text = header.strip()
    at, end = 1, len(text) - 1
    while field := _FIELD.match(text, at, end):
        at = field.end()
        fields[field.lastgroup or ""] = field[field.lastgroup or ""]
    is_whole = text.startswith("{") and text.endswith("}") and not text[at:end].strip() and len(fields) == 3
    if not is_whole or _NO_SPACES.search(header):
        raise MalformedBody(
            "the .npy header is malformed: it must hold 'descr', 'fortran_order' and 'shape', a tuple of sizes, alone"
        )
    return fields


def _writable(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    # Bodies come as bytearrays (writable, no copy); bytes, from tests and direct callers, are copied.
    return array if array.flags.writeable else array.copy()

"""The numbers of one msgpack list to float32, without a Python object for each of them at once."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import msgspec
import numpy as np

MAX_OBJECTS = 2**16
"""Numbers that are Python objects at one time, 32 bytes each."""

# First byte of an entry: how many bytes it has. Of what is no number, 0.
_LENGTHS = bytes(
    {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}.get(
        first, 1 if first < 0x80 or first >= 0xE0 else 0
    )
    for first in range(256)
)
_DTYPES = {
    0xCA: ">f4", 0xCB: ">f8", 0xCC: ">u1", 0xCD: ">u2", 0xCE: ">u4", 0xCF: ">u8",
    0xD0: ">i1", 0xD1: ">i2", 0xD2: ">i4", 0xD3: ">i8",
}  # fmt: skip
_MOST_BYTES = 9
_FLOATS = msgspec.msgpack.Decoder(list[float])


def fill(array: np.ndarray[Any, Any], data: memoryview, header_bytes: int) -> None:
    """Read as many numbers as `array` is long.

    Args:
        array: float32 [N], written to.
        data: a list of N entries, and nothing behind it.
        header_bytes: where its first entry begins.

    Raises:
        ValueError: something that is no number stands there.
    """
    if len(array) <= MAX_OBJECTS:
        array[:] = _FLOATS.decode(data)
    elif not _fill_alike(array, data[header_bytes:]):
        _fill_by_and_by(array, data[header_bytes:])


def _fill_alike(array: np.ndarray[Any, Any], entries: memoryview) -> bool:
    """Let NumPy read entries that are all of one type, as programs write floats; False, nothing read, for others."""
    first = entries[0]
    if _LENGTHS[first] * len(array) != len(entries):
        return False
    if _LENGTHS[first] == 1:
        values = np.frombuffer(entries, dtype=np.int8)  # -32 to 127; what is below them is no such entry
        if (values < -32).any():
            return False
        array[:] = values
        return True
    kind = np.dtype([("first", "u1"), ("value", _DTYPES.get(first, "u1"))])
    if kind.itemsize * len(array) != len(entries):
        return False
    records = np.frombuffer(entries, dtype=kind)
    if (records["first"] != first).any():
        return False
    array[:] = records["value"]
    return True


def _fill_by_and_by(array: np.ndarray[Any, Any], entries: memoryview) -> None:
    start = 0
    for done in range(0, len(array), MAX_OBJECTS):
        num_wanted = min(MAX_OBJECTS, len(array) - done)
        # Millions of turns, so without a check in them: the walk stays where no number is, and the decoder says so.
        lengths = bytes(entries[start : start + num_wanted * _MOST_BYTES]).translate(_LENGTHS) + b"\0"
        at = 0
        for _ in itertools.repeat(None, num_wanted):
            at += lengths[at]
        header = struct.pack(">BI", 0xDD, num_wanted)
        try:
            array[done : done + num_wanted] = _FLOATS.decode(header + entries[start : start + at])
        except msgspec.DecodeError as error:
            raise ValueError("something that is no number stands in a list of numbers") from error
        start += at

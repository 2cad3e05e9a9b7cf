"""Which way up a picture is: the orientation in its EXIF block, and pixels written that way up."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

UPRIGHT = 1
_ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4  # the two types of whole number that cameras write it as
_ENTRY_BYTES = 12
_PREFIX = b"Exif\0\0"  # JPEG needs it, PNG and WebP do without, and some writers put it there all the same


def orientation(block: bytes) -> int:
    """Read the orientation, and nothing else of the block.

    Args:
        block: an EXIF block (a TIFF header and its directories), with or without "Exif\\0\\0" before it.

    Returns:
        1 to 8 as the EXIF standard counts them; 1, upright, where the block is cut off, corrupt or says nothing, as
        browsers have it: a picture that decodes is answered, whatever its camera wrote beside it.
    """
    block = block.removeprefix(_PREFIX)
    endian = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if endian is None or len(block) < 8:
        return UPRIGHT
    (start,) = struct.unpack_from(endian + "I", block, 4)
    if start + 2 > len(block):
        return UPRIGHT
    (num_entries,) = struct.unpack_from(endian + "H", block, start)
    for at in range(
        start + 2, min(start + 2 + num_entries * _ENTRY_BYTES, len(block) - _ENTRY_BYTES + 1), _ENTRY_BYTES
    ):
        tag, kind = struct.unpack_from(endian + "HH", block, at)
        if tag == _ORIENTATION and kind in (_SHORT, _LONG):
            (value,) = struct.unpack_from(endian + ("H" if kind == _SHORT else "I"), block, at + 8)
            return int(value) if 1 <= value <= 8 else UPRIGHT
    return UPRIGHT


def swaps_sides(turn: int) -> bool:
    """Whether width and height change places."""
    return turn >= 5


def as_stored(upright: np.ndarray[Any, Any], turn: int) -> np.ndarray[Any, Any]:
    """A view of upright pixels [H, W, ...] in which the file's rows and columns stand where the file has them.

    Writing the file's rows into the view turns the picture without a second copy of it.
    """
    view = upright.swapaxes(0, 1) if swaps_sides(turn) else upright
    # The file's first row is at the bottom in 3 and 4, at the right in 6 and 7; its first column at the right in 2 and
    # 3, at the bottom in 7 and 8.
    if turn in (3, 4, 6, 7):
        view = view[::-1]
    if turn in (2, 3, 7, 8):
        view = view[:, ::-1]
    return view

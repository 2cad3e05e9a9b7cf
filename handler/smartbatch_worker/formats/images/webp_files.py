"""Of a WebP body, what its chunks say without any decoding: the size of what is shown, and the EXIF block.

Source: the container's specification (RIFF chunks; the first tells the size, in one of three ways).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from smartbatch_worker.errors import MalformedBody

MAX_CHUNKS = 2**16  # one a frame of an animation; each costs a turn of Python
_FIRST_CHUNK = 12


@dataclass(frozen=True, slots=True)
class WebpFile:
    """What is needed of a body that begins as a WebP."""

    size: tuple[int, int]
    """Width and height of the canvas, in pixels."""
    exif: bytes


def begins(body: bytes | bytearray) -> bool:
    """Whether the first bytes are those of a WebP."""
    return body[:4] == b"RIFF" and body[8:12] == b"WEBP"


def read(body: bytes | bytearray) -> WebpFile:
    """Walk the chunks once; what is corrupt or cut off behind the first is left to the decoder to find.

    Raises:
        MalformedBody: the header is cut off or of no known kind, or there are more chunks than any encoder writes.
    """
    size = _size(bytes(body[_FIRST_CHUNK : _FIRST_CHUNK + 18]))
    if size is None:
        raise MalformedBody("the image header is corrupt; accepted are JPEG, PNG and WebP")
    at = _FIRST_CHUNK
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(body):
            return WebpFile(size, b"")
        kind, length = struct.unpack_from("<4sI", body, at)
        if kind == b"EXIF":
            return WebpFile(size, bytes(body[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    raise MalformedBody(f"the WebP image has more than {MAX_CHUNKS} chunks")


def _size(chunk: bytes) -> tuple[int, int] | None:
    """Width and height in the first chunk's 18 first bytes; None where it has none."""
    kind, data = chunk[:4], chunk[8:]
    if kind == b"VP8X" and len(data) == 10:
        return int.from_bytes(data[4:7], "little") + 1, int.from_bytes(data[7:10], "little") + 1
    if kind == b"VP8L" and data[:1] == b"\x2f" and len(data) >= 5:
        (bits,) = struct.unpack_from("<I", data, 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and data[3:6] == b"\x9d\x01\x2a" and len(data) == 10:
        width, height = struct.unpack_from("<HH", data, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None

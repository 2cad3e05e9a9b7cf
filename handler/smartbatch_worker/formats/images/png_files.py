"""A PNG body cut down to the chunks that make its picture: no text, no colour profile, nothing behind its end."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from smartbatch_worker.errors import MalformedBody

MAX_CHUNKS = 2**16  # encoders write 8 KiB and more a chunk; each costs a turn of Python
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


@dataclass(frozen=True, slots=True)
class PngFile:
    """What is needed of a body that begins as a PNG."""

    picture: bytes
    """The chunks that pixels are made of. An animation's are left out: its IDAT is what viewers without it show."""
    exif: bytes


def begins(body: bytes | bytearray) -> bool:
    """Whether the first bytes are those of a PNG."""
    return body[: len(_SIGNATURE)] == _SIGNATURE


def read(body: bytes | bytearray) -> PngFile:
    """Walk the chunks once; nothing is inflated. What is corrupt or cut off is left to the decoder to find.

    Raises:
        MalformedBody: more chunks than any encoder writes.
    """
    whole = memoryview(body)
    kept = [whole[: len(_SIGNATURE)]]
    exif, at, num_chunks = b"", len(_SIGNATURE), 0
    while at + 8 <= len(body):
        num_chunks += 1
        if num_chunks > MAX_CHUNKS:
            raise MalformedBody(f"the PNG has more than {MAX_CHUNKS} chunks")
        length, kind = struct.unpack_from(">I4s", body, at)
        end = at + 12 + length
        if kind in _PICTURE:
            kept.append(whole[at:end])
        elif kind == b"eXIf" and not exif:
            exif = bytes(whole[at + 8 : end - 4])
        at = end
        if kind == b"IEND":
            break
    return PngFile(b"".join(kept), exif)


def bit_depth(picture: bytes) -> int:
    """Bits of one sample, as the IHDR says, which comes first."""
    return picture[24]

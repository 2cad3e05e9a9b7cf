"""WAV files: their chunks, up to the samples; uncompressed ones only.

Source: Multimedia Programming Interface and Data Specifications 1.0 (RIFF), and mmreg.h for the formats' numbers.
"""

from __future__ import annotations

import struct

from smartbatch_worker.errors import MalformedBody
from smartbatch_worker.formats.audio.header import Header

_PCM, _FLOAT, _A_LAW, _MU_LAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_TAKEN = (_PCM, _FLOAT, _A_LAW, _MU_LAW)  # libsndfile reads more, by decoders that hardly anybody has tried to break
_BITS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64), _A_LAW: (8,), _MU_LAW: (8,)}
_UNKNOWN_LENGTHS = (0, 2**32 - 1)  # what programs write that cannot go back and fill the length in
_MIN_FORMAT_BYTES, _EXTENSIBLE_BYTES = 16, 40
MAX_CHUNKS = 256


def begins(body: bytes | bytearray) -> bool:
    """Whether the first bytes are those of a WAV file."""
    return body[:4] == b"RIFF" and body[8:12] == b"WAVE"


def read_header(body: bytes | bytearray) -> Header:
    """What the file declares.

    Raises:
        MalformedBody: it is cut off, has no format or no samples, or its samples are compressed.
    """
    layout: tuple[int, int, int] | None = None
    at = 12
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(body):
            break
        (size,) = struct.unpack_from("<I", body, at + 4)
        start = at + 8
        if body[at : at + 4] == b"fmt ":
            layout = _layout(bytes(body[start : start + min(size, _EXTENSIBLE_BYTES)]))
        elif body[at : at + 4] == b"data":
            if layout is None:
                raise MalformedBody("the WAV file's samples come before their format")
            rate, num_channels, frame_bytes = layout
            left = len(body) - start
            if size in _UNKNOWN_LENGTHS:
                return Header(rate, num_channels, None)
            if size > left:
                raise MalformedBody(f"the WAV file is cut off: it declares {size} bytes of samples and has {left}")
            return Header(rate, num_channels, size // frame_bytes)
        at = start + size + size % 2
    raise MalformedBody(f"the WAV file has no samples (no chunk named data among its first {MAX_CHUNKS})")


def _layout(chunk: bytes) -> tuple[int, int, int]:
    """(samples a second, channels, bytes of a sample of all channels)."""
    if len(chunk) < _MIN_FORMAT_BYTES:
        raise MalformedBody("the WAV file's format chunk is cut off")
    tag, num_channels, rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE and len(chunk) >= _EXTENSIBLE_BYTES:
        (tag,) = struct.unpack_from("<H", chunk, 24)
    if tag not in _TAKEN or bits not in _BITS[tag]:
        raise MalformedBody(
            f"the WAV file's samples have format {tag:#x} of {bits} bits; accepted are PCM of 8, 16, 24 and 32 bits, "
            "float of 32 and 64, A-law and mu-law"
        )
    if num_channels == 0 or frame_bytes != num_channels * bits // 8:
        raise MalformedBody(f"the WAV file declares {num_channels} channels of {bits} bits in {frame_bytes} bytes")
    return rate, num_channels, frame_bytes

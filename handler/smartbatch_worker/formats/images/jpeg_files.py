"""A JPEG body cut down to its first picture, and what its headers say of the cost of decoding it."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from smartbatch_worker.errors import MalformedBody

MAX_SEGMENTS = 10_000  # a profile takes up to 255 of them; each costs a turn of Python
# As libjpeg searches: a marker is 0xFF and a byte that says something; 0xFF00 and restart markers belong to the data.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SOI, _EOI, _SOS, _APP1, _APP14, _APP15, _COM = 0xD8, 0xD9, 0xDA, 0xE1, 0xEE, 0xEF, 0xFE
_FIRST_VALID = 0xC0
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to 15 but for tables and a reserved one
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_COEFFICIENT_BYTES = 2
_BASELINE, _END = 0xC0, b"\xff\xd9"
_USUAL_SAMPLINGS = (b"\x11\x11\x11", b"\x21\x11\x11", b"\x22\x11\x11")  # 4:4:4, 4:2:2, 4:2:0


@dataclass(frozen=True, slots=True)
class JpegFile:
    """What is needed of a body that begins as a JPEG."""

    picture: bytes
    """The first picture alone, without EXIF, profiles and comments; what a camera app appended is left out."""
    exif: bytes
    num_scans: int
    """Passes over the picture up to its end."""
    coefficient_bytes_per_pixel: float
    """What libjpeg keeps of the whole picture until the last scan has come; 0 where one scan holds everything."""
    is_usual: bool
    """Whether every decoder reads it alike: colours as JFIF has them, in 8 bits and one baseline scan, to its end."""
    size: tuple[int, int]
    """Width and height, as its header has them; (0, 0) where it has none."""


def begins(body: bytes | bytearray) -> bool:
    """Whether the first bytes are those of a JPEG."""
    return body[:3] == b"\xff\xd8\xff"


def read(body: bytes | bytearray, max_scans: int) -> JpegFile:
    """Walk the markers once, from the start to the end of the first picture; nothing is decoded.

    What is corrupt is left to the decoder to find, which says it better.

    Raises:
        MalformedBody: more than `max_scans` scans, or more segments than any camera writes.
    """
    kept: list[bytes | memoryview] = [b"\xff\xd8"]
    num_segments = 0
    whole = memoryview(body)
    exif, frame, adobe, num_scans, coefficients, at = b"", b"", b"", 0, 0.0, 2
    frame_marker, first_scan, end = 0, 0, len(body)
    while found := _MARKER.search(body, at):
        start, marker = found.start(), body[found.start() + 1]
        at = start + 2
        num_segments += 1
        if num_segments > MAX_SEGMENTS:
            raise MalformedBody(f"the JPEG has more than {MAX_SEGMENTS} segments")
        if marker in (_EOI, _SOI):  # libjpeg ends at the one and fails at the other
            end = at
            break
        # libjpeg may step over an invalid marker in the data and read on right behind it; so must the count.
        if marker < _FIRST_VALID:
            continue
        segment = _segment(body, at)
        at += 2 + len(segment)
        if marker == _SOS:
            num_scans += 1
            if num_scans == 1:
                first_scan = start
                coefficients = _coefficient_bytes_per_pixel(
                    frame, frame_marker in _PROGRESSIVE or segment[:1] != frame[5:6]
                )
            if num_scans > max_scans:
                raise MalformedBody(f"the JPEG has more than {max_scans} scans")
        elif num_scans == 0:
            if marker in _FRAMES:
                frame, frame_marker = segment, marker
            elif marker == _APP1 and not exif and segment.startswith(b"Exif\0\0"):
                exif = segment
            elif marker == _APP14:
                adobe = segment
            if not (_APP1 <= marker < _APP14 or marker in (_APP15, _COM)):
                kept.append(whole[start:at])
    kept.append(whole[first_scan:end] if first_scan else whole[min(at, end) : end])
    picture = b"".join(kept)
    is_usual = (
        frame_marker == _BASELINE and num_scans == 1 and picture.endswith(_END) and _has_usual_colours(frame, adobe)
    )
    size = (int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big"))
    return JpegFile(picture, exif, num_scans, coefficients, is_usual, size)


def _segment(body: bytes | bytearray, at: int) -> bytes:
    """What follows a marker's two bytes of length; nothing where they are cut off or impossible."""
    if at + 2 > len(body):
        return b""
    (length,) = struct.unpack_from(">H", body, at)
    return bytes(body[at + 2 : at + length]) if length >= 2 else b""


def _coefficient_bytes_per_pixel(frame: bytes, in_several_scans: bool) -> float:
    """What the components' coefficients take, each as finely sampled as the frame header says."""
    if not in_several_scans:
        return 0.0
    factors = [(byte >> 4, byte & 15) for byte in frame[7::3]]
    finest = max((across for across, _ in factors), default=0) * max((down for _, down in factors), default=0)
    return _COEFFICIENT_BYTES * sum(across * down for across, down in factors) / finest if finest else 0.0


def _has_usual_colours(frame: bytes, adobe: bytes) -> bool:
    """Brightness and two colours of 8 bits, and nothing that says otherwise."""
    is_rgb = adobe.startswith(b"Adobe") and adobe[11:12] == b"\0"
    return frame[:1] == b"\x08" and frame[6::3] == b"\x01\x02\x03" and frame[7::3] in _USUAL_SAMPLINGS and not is_rgb

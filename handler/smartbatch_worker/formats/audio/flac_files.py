"""FLAC files: what their first block declares.

Source: RFC 9639, Free Lossless Audio Codec.
"""

from __future__ import annotations

from smartbatch_worker.errors import MalformedBody
from smartbatch_worker.formats.audio.header import Header

_STREAMINFO_BYTES = 34
_START = 8  # the name, and the head of the first block


def begins(body: bytes | bytearray) -> bool:
    """Whether the first bytes are those of a FLAC file."""
    return body[:4] == b"fLaC"


def read_header(body: bytes | bytearray) -> Header:
    """What the file declares.

    Raises:
        MalformedBody: it does not begin as the format has it, or does not say how long it is: libsndfile then seeks for
            the end, and fails.
    """
    is_first = len(body) >= _START + _STREAMINFO_BYTES and body[4] & 0x7F == 0
    if not is_first or int.from_bytes(body[5:8], "big") != _STREAMINFO_BYTES:
        raise MalformedBody("the FLAC file is cut off, or does not begin with what it holds (STREAMINFO)")
    # 20 bits of samples a second, 3 of channels less one, 5 of bits a sample less one, 36 of samples.
    fields = int.from_bytes(body[_START + 10 : _START + 18], "big")
    num_frames = fields & (2**36 - 1)
    if num_frames == 0:
        raise MalformedBody(
            "the FLAC file does not say how many samples it has, as one written into a pipe; write it to a file"
        )
    return Header(fields >> 44, (fields >> 41 & 0b111) + 1, num_frames)

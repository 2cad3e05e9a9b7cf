"""Formats that no reader here knows, by their first bytes: a client is told what was sent, not only what is read."""

from __future__ import annotations

_BEGINNINGS = (
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (6, b"\0\0\0\0\x36\0\0\0", "BMP"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypM4A", "AAC"),
    (4, b"ftyp", "MP4"),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska"),
    (0, b"OggS", "Ogg"),
    (0, b"ID3", "MP3"),
    (0, b"\xff\xfb", "MP3"),
    (0, b"%PDF", "PDF"),
    (0, b"PAR1", "Parquet"),
    (0, b"ARROW1", "Arrow"),
    (0, b"\x80\x04\x95", "a pickle"),
    (0, b"\x80\x05\x95", "a pickle"),
    (0, b"\x1f\x8b", "gzip (without the header Content-Encoding: gzip)"),
)
"""Where they stand, what stands there, and whose it is; the first that fits."""


def name_of(body: bytes | bytearray) -> str | None:
    """What a body that nobody reads looks like; None where it looks like nothing known.

    Args:
        body: the raw bytes.
    """
    return next((name for at, first, name in _BEGINNINGS if body.startswith(first, at)), None)

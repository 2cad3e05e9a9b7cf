"""Bodies that came compressed: inflated within the bounds that bodies have, before anybody reads them."""

from __future__ import annotations

import zlib

from smartbatch_worker.errors import BodyTooLarge, MalformedBody, UnknownFormat

MAX_BODY_BYTES = 64 * 2**20
"""What a body may have when it is inflated: as much as the frontend takes of one that is not (max_request_size)."""

MAX_MEMBERS = 4096  # a gzip file may be many in a row; each costs a turn of Python and a window of memory
_PIECE_BYTES = 2**16
_GZIP = ("gzip", "x-gzip")
_WITH_GZIP_HEADER = 16 + zlib.MAX_WBITS


def inflate(body: bytes | bytearray, content_encoding: str) -> bytes | bytearray:
    """Undo a request's Content-Encoding.

    Args:
        body: as it came.
        content_encoding: the header's value, or "" where there is none.

    Returns:
        The body itself where it is not compressed.

    Raises:
        UnknownFormat: another encoding than gzip, or several.
        MalformedBody: no gzip, cut off, with a wrong checksum, or with anything behind it.
        BodyTooLarge: more than MAX_BODY_BYTES; nothing beyond them is inflated.
    """
    encodings = [name for part in content_encoding.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if not encodings:
        return body
    if len(encodings) > 1 or encodings[0] not in _GZIP:
        raise UnknownFormat(
            f"Content-Encoding {content_encoding[:80]!r} is not accepted; accepted are gzip and identity"
        )
    try:
        return _gunzip(memoryview(body))
    except zlib.error as error:
        raise MalformedBody(f"the body is not valid gzip, as its Content-Encoding says: {error}") from None


def _gunzip(body: memoryview) -> bytearray:
    inflated = bytearray()
    member, num_members, at = zlib.decompressobj(_WITH_GZIP_HEADER), 1, 0
    while at < len(body):
        piece: bytes | memoryview = body[at : at + _PIECE_BYTES]
        at += len(piece)
        while piece:
            if member.eof:
                num_members += 1
                if num_members > MAX_MEMBERS:
                    raise MalformedBody(f"the gzip body has more than {MAX_MEMBERS} members")
                member = zlib.decompressobj(_WITH_GZIP_HEADER)
            inflated += member.decompress(piece, MAX_BODY_BYTES + 1 - len(inflated))
            if len(inflated) > MAX_BODY_BYTES:
                raise BodyTooLarge(f"the gzip body inflates to more than the {MAX_BODY_BYTES} bytes that are accepted")
            piece = member.unused_data if member.eof else member.unconsumed_tail
    if not member.eof:
        raise MalformedBody("the gzip body is cut off")
    return inflated

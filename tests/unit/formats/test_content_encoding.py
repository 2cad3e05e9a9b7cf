"""Compressed bodies are inflated within bounds, or refused with what was wrong."""

from __future__ import annotations

import gzip
import zlib

import pytest
from smartbatch_worker.errors import RowError
from smartbatch_worker.formats import content_encoding
from smartbatch_worker.formats.content_encoding import MAX_BODY_BYTES, inflate

BODY = b'{"data": [1, 2, 3, 4]}'
PACKED = gzip.compress(BODY)


@pytest.mark.parametrize("header", ["", "identity", " Identity ", ",", "identity, identity"])
def test_what_is_not_compressed_is_left_alone(header: str) -> None:
    assert inflate(PACKED, header) is PACKED


@pytest.mark.parametrize("header", ["gzip", "GZIP", "x-gzip", "identity, gzip", " gzip "])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_gzip_is_inflated(header: str, kind: type) -> None:
    assert inflate(kind(PACKED), header) == BODY


def test_large_bodies_and_several_members_are_inflated() -> None:
    noise = bytes(range(256)) * 5000
    assert inflate(gzip.compress(noise), "gzip") == noise
    assert (
        inflate(b"".join(gzip.compress(noise[at : at + 40_000]) for at in range(0, len(noise), 40_000)), "gzip")
        == noise
    )
    assert inflate(gzip.compress(b""), "gzip") == b""
    assert len(inflate(gzip.compress(bytes(MAX_BODY_BYTES), 1), "gzip")) == MAX_BODY_BYTES


BROKEN = {
    "empty": (b"", 400, "cut off"),
    "no gzip": (BODY, 400, "not valid gzip"),
    "cut off": (PACKED[:-1], 400, "cut off"),
    "cut off after its header": (PACKED[:10], 400, "cut off"),
    "bytes behind it": (PACKED + b"further bytes", 400, "not valid gzip"),
    "half a member behind it": (PACKED + PACKED[:12], 400, "cut off"),
    "a wrong checksum": (PACKED[:-8] + bytes(4) + PACKED[-4:], 400, "not valid gzip"),
    "zlib, not gzip": (zlib.compress(BODY), 400, "not valid gzip"),
    "a bomb": (gzip.compress(bytes(MAX_BODY_BYTES + 1), 1), 413, "inflates to more"),
    "a bomb in members": (gzip.compress(bytes(2**20)) * 65, 413, "inflates to more"),
    "a million members": (gzip.compress(b"") * 1_000_000, 400, "members"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_gzip_says_what_is_wrong(name: str) -> None:
    body, status, said = BROKEN[name]
    with pytest.raises(RowError, match=said) as caught:
        inflate(body, "gzip")
    assert caught.value.status == status


@pytest.mark.parametrize("header", ["br", "deflate", "zstd", "gzip, gzip", "gzip, br", "compress", "x" * 900])
def test_other_encodings_are_named(header: str) -> None:
    with pytest.raises(RowError, match="accepted are gzip and identity") as caught:
        inflate(PACKED, header)
    assert caught.value.status == 415
    assert header[:20] in caught.value.message


def test_a_bomb_is_stopped_as_it_inflates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a member would become, no more than the limit and a byte is ever asked for."""
    monkeypatch.setattr(content_encoding, "MAX_BODY_BYTES", 1000)
    asked: list[int] = []

    class Watched:
        eof, unused_data, unconsumed_tail = False, b"", b""

        def decompress(self, piece: bytes, max_length: int) -> bytes:
            asked.append(max_length)
            return bytes(max_length)

    monkeypatch.setattr(zlib, "decompressobj", lambda _: Watched())
    with pytest.raises(RowError, match="more than the 1000 bytes"):
        inflate(PACKED, "gzip")
    assert asked == [1001]

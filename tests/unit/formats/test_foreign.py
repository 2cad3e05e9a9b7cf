"""Bodies that nobody reads are called what they are, by what their own writers write."""

from __future__ import annotations

import gzip
import io
import pickle

import pytest
from PIL import Image
from smartbatch_worker import formats
from smartbatch_worker.formats.foreign import name_of


def written(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (written("GIF"), "GIF"),
        (written("BMP"), "BMP"),
        (written("TIFF"), "TIFF"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "MP4"),
        (b"OggS\0\x02", "Ogg"),
        (b"ID3\x04\0", "MP3"),
        (written("PDF"), "PDF"),
        (pickle.dumps({"data": [1, 2]}), "a pickle"),
        (gzip.compress(b"{}", mtime=0), "gzip"),
        (b"PAR1\x15\x04", "Parquet"),
    ],
)
def test_a_body_is_called_what_it_is(body: bytes, name: str) -> None:
    assert formats.recognise(body, "") is None
    error = formats.unknown(bytearray(body), "")
    assert error.status == 415
    assert error.message.startswith(f"the body is {name}")
    assert error.message.endswith(formats.ACCEPTED), "what is accepted is told"


def test_of_what_looks_like_nothing_the_type_is_told() -> None:
    assert name_of(b"") is None
    assert name_of(b"BMW and others") is None
    message = formats.unknown(b"hello", "text/csv; charset=utf-8").message
    assert message.startswith("unknown body format (Content-Type 'text/csv'); accepted are")

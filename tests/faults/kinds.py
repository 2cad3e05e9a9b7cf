"""Kinds of requests, good and hostile, each with its right answer."""

from __future__ import annotations

import gzip
import io
import json
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy
from PIL import Image, PngImagePlugin

from tests.faults.models.answering import GIVES_NAN, NAMES_CUDA, RAISES

FORGED = "\n".join(
    f"{start}[METRICS]smartbatch_requests_total.unit:7000000|#model:line,level:Model,status:200|#type:COUNTER|#hostname:h,1"
    for start in ("", "INFO > ", "x\r", "x\u2028", "x\x85")
)
MAX_RESPONSE_BYTES = 1_000_000
"""Of the server."""
JSON = "application/json"
TOLERANCE = 0.02
"""Of a picture's mean: JPEG is lossy, and resizing rounds."""
FORM_PART = "--x\r\nContent-Disposition: form-data; name={}\r\n{}\r\n{}\r\n"


@dataclass(frozen=True, slots=True)
class Sent:
    """One request, and what it is to be answered: a status, and at 200 the numbers."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    numbers: Any = None
    tolerance: float = 0.0


Kind = Callable[[int], Sent]
KINDS: dict[str, Kind] = {}
"""By name; each makes the n-th request of its kind."""


def kind(make: Kind) -> Kind:
    """Add to KINDS, under the function's name."""
    KINDS[make.__name__] = make
    return make


def line(n: int, body: bytes, content_type: str = JSON, path: str = "/predictions/line", **headers: str) -> Sent:
    """A good request to `line` with the item [n, 1, 2]."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Sent(path, body, {"Content-Type": content_type, **names}, numbers=[2 * n + 1, 3, 5])


def item(n: int) -> bytes:
    """As JSON."""
    return json.dumps({"data": [n, 1, 2]}).encode()


def bad(status: int, body: bytes, content_type: str = JSON, model: str = "line", **headers: str) -> Sent:
    """A request that is to fail alone."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Sent(f"/predictions/{model}", body, {"Content-Type": content_type, **names}, status)


def npy(array: np.ndarray[Any, Any]) -> bytes:
    """As np.save writes it."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def f32(n: int) -> np.ndarray[Any, Any]:
    """The item [n, 1, 2]."""
    return np.array([n, 1, 2], np.float32)


# Good, in every format.


@kind
def plain_json(n: int) -> Sent:
    return line(n, item(n))


@kind
def spaced_json_beside_other_keys(n: int) -> Sent:
    return line(n, b'{"id": 123456789012345678901, "data": [%d.0, 1e0, 2] }' % n)


@kind
def big_integer(n: int) -> Sent:
    sent = line(0, b'{"data": [%d00000000000000000000, 1, 2]}' % (n + 1))
    return Sent(sent.path, sent.body, sent.headers, numbers=[2e20 * (n + 1) + 1, 3, 5], tolerance=1e-6 * 2e20 * (n + 1))


@kind
def several_items(n: int) -> Sent:
    body = json.dumps({"data": [[n, 1, 2], [n + 1, 1, 2]]}).encode()
    return Sent("/predictions/line", body, {"Content-Type": JSON}, numbers=[[2 * n + 1, 3, 5], [2 * n + 3, 3, 5]])


@kind
def msgpack(n: int) -> Sent:
    return line(n, msgspec.msgpack.encode({"data": [n, 1, 2]}), "application/msgpack")


@kind
def npy_floats(n: int) -> Sent:
    return line(n, npy(f32(n)), "application/x-npy")


@kind
def npy_whole(n: int) -> Sent:
    return line(n, npy(np.array([n, 1, 2], np.int64)))


@kind
def safetensors_body(n: int) -> Sent:
    return line(n, safetensors.numpy.save({"data": f32(n), "other": f32(0)}), "application/x-safetensors")


@kind
def gzipped(n: int) -> Sent:
    return line(n, gzip.compress(item(n)), Content_Encoding="gzip")


@kind
def form_with_a_file(n: int) -> Sent:
    file = FORM_PART.format('file; filename="a.json"', "Content-Type: application/json\r\n", item(n).decode())
    return line(
        n, (FORM_PART.format("note", "", "hello") + file + "--x--\r\n").encode(), "multipart/form-data; boundary=x"
    )


@kind
def npy_answer(n: int) -> Sent:
    return line(n, item(n), Accept="application/x-npy")


@kind
def query_string(n: int) -> Sent:
    return line(n, item(n), path="/predictions/line?trace=1")


@kind
def kserve_route(n: int) -> Sent:
    return line(n, item(n), path="/v1/models/line:predict")


@kind
def invoke_route(n: int) -> Sent:
    return line(n, item(n), path="/models/line/invoke")


@kind
def torchserves_own_headers(n: int) -> Sent:
    own = {"describe": "True", "explain": "True", "ts_stream_next": "true", "ts_request_sequence_id": "1"}
    sent = line(n, item(n))
    return Sent(sent.path, sent.body, {**sent.headers, **own}, numbers=sent.numbers)


@kind
def deadline_in_time(n: int) -> Sent:
    return line(n, item(n), X_Request_Start=f"t={time.time():.3f}", X_Request_Deadline_Ms="600000")


@kind
def uneven_entries(n: int) -> Sent:
    body = json.dumps({"data": [n % 7, n]}).encode()
    return Sent("/predictions/uneven", body, {"Content-Type": JSON}, numbers=[n] * (n % 7))


@kind
def list_of_parts(n: int) -> Sent:
    body = json.dumps({"data": [n, 1]}).encode()
    return Sent("/predictions/parts", body, {"Content-Type": JSON}, numbers=[[2 * n, 2], [n + 1, 2]])


# Pictures: grey above, its opposite below.


@cache
def picture(upper: int, kind_name: str) -> bytes:
    """64 x 64, upper half of that grey, lower half of 255 less it."""
    image = Image.new("RGB", (64, 64), (upper, upper, upper))
    image.paste((255 - upper,) * 3, (0, 32, 64, 64))
    usual: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}
    options = usual.get(kind_name, {})
    if kind_name == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        image, kind_name, options = image.transpose(Image.Transpose.ROTATE_90), "JPEG", {"quality": 95, "exif": exif}
    elif kind_name == "text":
        info = PngImagePlugin.PngInfo()
        info.add_text("comment", "a" * (3 << 20), zip=True)
        kind_name, options = "PNG", {"pnginfo": info}
    elif kind_name == "16 bit":
        grey = np.full((64, 64), upper * 257, np.uint16)
        grey[32:] = (255 - upper) * 257
        image, kind_name = Image.fromarray(grey), "PNG"
    elif kind_name == "clear":
        image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
        kind_name = "PNG"
    stream = io.BytesIO()
    image.save(stream, kind_name, **options)
    return stream.getvalue()


def seen(n: int, body: bytes, content_type: str = "image/jpeg") -> Sent:
    """A request whose picture has that upper half."""
    upper = grey_of(n) / 255
    return Sent(
        "/predictions/seen", body, {"Content-Type": content_type}, numbers=[0.5, upper, 1 - upper], tolerance=TOLERANCE
    )


def grey_of(n: int) -> int:
    """Of the upper half of the n-th picture."""
    return n * 37 % 256


@kind
def jpeg(n: int) -> Sent:
    return seen(n, picture(grey_of(n), "JPEG"))


@kind
def png(n: int) -> Sent:
    return seen(n, picture(grey_of(n), "PNG"), "image/png")


@kind
def webp(n: int) -> Sent:
    return seen(n, picture(grey_of(n), "WEBP"), "image/webp")


@kind
def sixteen_bit_png(n: int) -> Sent:
    return seen(n, picture(grey_of(n), "16 bit"))


@kind
def turned_jpeg(n: int) -> Sent:
    return seen(n, picture(grey_of(n), "turned"))


@kind
def motion_photo(n: int) -> Sent:
    return seen(n, picture(grey_of(n), "JPEG") + b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 1000)


@kind
def png_with_much_text(n: int) -> Sent:
    return seen(n, picture(grey_of(n), "text"))


@kind
def transparent_png(n: int) -> Sent:
    return Sent("/predictions/seen", picture(0, "clear"), numbers=[1.0, 1.0, 1.0], tolerance=TOLERANCE)


@kind
def uint8_npy(n: int) -> Sent:
    image = np.full((3, 64, 64), grey_of(n), np.uint8)
    image[:, 32:] = 255 - grey_of(n)
    return seen(n, npy(image))


# Hostile: bodies.


@kind
def broken_json(n: int) -> Sent:
    return bad(400, b'{"data": [1, 2')


@kind
def ragged_json(n: int) -> Sent:
    return bad(400, b'{"data": [[1, 2, 3], [1]]}')


@kind
def null_in_json(n: int) -> Sent:
    return bad(400, b'{"data": [null, 1, 2]}')


@kind
def beyond_double(n: int) -> Sent:
    return bad(422, b'{"data": [1e309, 1, 2]}')


@kind
def wrong_shape(n: int) -> Sent:
    return bad(422, b'{"data": [1, 2, 3, 4, 5]}')


@kind
def empty_body(n: int) -> Sent:
    return bad(400, b"")


@kind
def impossible_npy(n: int) -> Sent:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9999999999999999999), }".ljust(117) + b"\n"
    return bad(400, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)


@kind
def overlapping_safetensors(n: int) -> Sent:
    entry = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}
    header = json.dumps({"data": entry, "x": {**entry, "data_offsets": [4, 16]}}).encode()
    return bad(400, struct.pack("<Q", len(header)) + header + bytes(16), "application/x-safetensors")


@kind
def cut_off_jpeg(n: int) -> Sent:
    return bad(400, picture(80, "JPEG")[:400], "image/jpeg", "seen")


@kind
def unknown_format(n: int) -> Sent:
    return bad(415, b"GIF89a" + bytes(100), "image/gif", "seen")


@kind
def unknown_encoding(n: int) -> Sent:
    return bad(415, item(n), Content_Encoding="br")


@kind
def gzip_bomb(n: int) -> Sent:
    return bad(413, _bomb(), Content_Encoding="gzip")


@cache
def _bomb() -> bytes:
    return gzip.compress(bytes(80 << 20))


@kind
def urlencoded_form(n: int) -> Sent:
    return bad(415, b"a=1&b=2", "application/x-www-form-urlencoded")


@kind
def form_of_two_files(n: int) -> Sent:
    parts = "".join(FORM_PART.format(f'f; filename="{name}"', "", item(n).decode()) for name in ("a.json", "b.json"))
    return bad(400, (parts + "--x--\r\n").encode(), "multipart/form-data; boundary=x")


@kind
def describe_by_an_empty_form(n: int) -> Sent:
    return bad(400, b"--x--\r\n", "multipart/form-data; boundary=x", describe="True")


# Hostile: headers, and what the model and the handler do with them.


@kind
def wrong_output_header(n: int) -> Sent:
    return bad(400, b'{"data": [3, 5]}', model="uneven", X_SmartBatch_Output="all")


@kind
def topk_of_whole_numbers(n: int) -> Sent:
    return bad(400, b'{"data": [3, 5]}', model="uneven", X_SmartBatch_Output="topk")


@kind
def npy_of_several_lengths(n: int) -> Sent:
    return bad(422, b'{"data": [[1, 5], [2, 5]]}', model="uneven", Accept="application/x-npy")


@kind
def deadline_passed(n: int) -> Sent:
    return bad(504, item(n), X_Request_Start=f"{time.time() - 100:.3f}", X_Request_Deadline_Ms="1000")


@kind
def poison(n: int) -> Sent:
    return bad(500, item(int(RAISES)))


@kind
def names_cuda(n: int) -> Sent:
    return bad(500, item(int(NAMES_CUDA)))


@kind
def nan_answer(n: int) -> Sent:
    return bad(500, item(int(GIVES_NAN)))


@kind
def postprocess_raises(n: int) -> Sent:
    return bad(500, item(672))


@kind
def answer_too_long(n: int) -> Sent:
    return bad(500, item(673))


@kind
def answer_that_json_cannot_hold(n: int) -> Sent:
    return bad(500, item(674))


@kind
def forged_metrics(n: int) -> Sent:
    return bad(500, FORGED.encode(), "text/plain")

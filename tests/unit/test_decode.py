"""decode: every accepted format to the same items; every broken body to its own error."""

from __future__ import annotations

import gc
import io
import json
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import msgpack
import msgspec
import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import RowError
from smartbatch_worker.flow.decode import decode
from smartbatch_worker.kernels import json_numbers
from torchvision.transforms.v2 import functional as transforms

IMAGE_MODEL = WorkerConfig.resolve({}, {})
VECTOR_MODEL = WorkerConfig.resolve({"input_shape": [4]}, {})


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def image(kind: str, size: tuple[int, int] = (300, 280), mode: str = "RGB") -> bytes:
    width, height = size
    rows = np.add.outer(np.arange(height), 2 * np.arange(width)) % 256
    picture = Image.fromarray(np.stack([rows, rows[::-1], 255 - rows], -1).astype(np.uint8)).convert(mode)
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


@pytest.fixture(autouse=True, scope="module")
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    json_numbers.prepare(tmp_path_factory.mktemp("json"))


@pytest.fixture(params=["in C", "by simdjson"])
def json_reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a C compiler, and without."""
    if request.param == "by simdjson":
        monkeypatch.setattr(json_numbers, "_library", None)
    else:
        assert json_numbers._library is not None


CHW = np.random.default_rng(0).random((3, 5, 6)).astype(np.float32)
TENSOR_BODIES = {
    "json": (json.dumps({"data": CHW.tolist()}).encode(), "application/json"),
    "json without a content type": (json.dumps({"data": CHW.tolist()}).encode(), ""),
    "msgpack lists": (msgspec.msgpack.encode({"data": CHW.tolist()}), "application/msgpack"),
    "msgpack bytes": (
        msgspec.msgpack.encode({"data": CHW.tobytes(), "shape": [3, 5, 6], "dtype": "float32"}),
        "application/msgpack; charset=binary",
    ),
    "npy": (npy(CHW), ""),
    "npy float64": (npy(CHW.astype(np.float64)), ""),
    "npy in Fortran order": (npy(np.asfortranarray(CHW)), ""),
    "npy big-endian": (npy(CHW.astype(">f4")), ""),
    "safetensors": (safetensors.numpy.save({"data": CHW}), "application/x-safetensors"),
}


class Collected:
    """Garbage whose end runs Python, where another thread may take its turn."""

    def __init__(self) -> None:
        self.cycle = self

    def __del__(self) -> None:
        sum(range(50))


def test_bodies_are_decoded_in_threads_while_garbage_is_collected() -> None:
    def decode_often(name: str) -> None:
        body, content_type = TENSOR_BODIES[name]
        for _ in range(2000):
            Collected()
            (item,) = decode(body, content_type, IMAGE_MODEL).items
            assert np.array_equal(item.numpy(), CHW)

    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(7)
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(decode_often, ["npy", "npy", "npy", "json", "safetensors", "msgpack bytes"]))
    finally:
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)


@pytest.mark.usefixtures("json_reader")
@pytest.mark.parametrize("name", TENSOR_BODIES)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_every_tensor_format_gives_the_same_item(name: str, kind: type) -> None:
    body, content_type = TENSOR_BODIES[name]
    decoded = decode(kind(body), content_type, IMAGE_MODEL)
    assert not decoded.has_batch_dim
    assert decoded.items[0].dtype == torch.float32
    np.testing.assert_array_equal(decoded.items[0].numpy(), CHW)


def test_a_plane_is_repeated_over_the_channels() -> None:
    (item,) = decode(b'{"data": [[0.1, 0.2], [0.3, 0.4]]}', "", IMAGE_MODEL).items
    assert item.shape == (3, 2, 2)
    assert torch.equal(item[0], item[2])


def test_four_dimensions_are_n_items() -> None:
    decoded = decode(npy(np.stack([CHW, CHW + 1])), "", IMAGE_MODEL)
    assert decoded.has_batch_dim
    assert len(decoded.items) == 2
    np.testing.assert_array_equal(decoded.items[1].numpy(), CHW + 1)


def test_vectors_and_batches_of_vectors() -> None:
    assert len(decode(b'{"data": [1, 2, 3, 4]}', "", VECTOR_MODEL).items) == 1
    assert len(decode(b'{"data": [[1, 2, 3, 4], [5, 6, 7, 8]]}', "", VECTOR_MODEL).items) == 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_match_torchvisions_own_preset(kind: str) -> None:
    body = image(kind)
    decoded = decode(body, "", IMAGE_MODEL)
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(body)).convert("RGB"))).permute(2, 0, 1)
    expected = transforms.center_crop(transforms.resize(pixels, [256], antialias=True), [224, 224])
    assert decoded.is_image
    assert decoded.items[0].dtype == torch.uint8
    assert torch.equal(decoded.items[0], expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16"])
def test_rare_colour_modes_are_read(mode: str) -> None:
    body = image("PNG", mode="RGB" if mode == "I;16" else mode)
    if mode == "I;16":
        stream = io.BytesIO()
        Image.fromarray(np.full((40, 40), 40_000, np.uint16)).save(stream, "PNG")
        body = stream.getvalue()
    assert decode(body, "", IMAGE_MODEL).items[0].shape == (3, 224, 224)


def test_cmyk_jpegs_are_read() -> None:
    assert decode(image("JPEG", mode="CMYK"), "", IMAGE_MODEL).items[0].shape == (3, 224, 224)


def test_uint8_pixels_last_are_turned_channels_first() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (7, 8, 3), dtype=np.uint8)
    (item,) = decode(npy(pixels), "", IMAGE_MODEL).items
    np.testing.assert_array_equal(item.numpy(), pixels.transpose(2, 0, 1))


def test_uint8_vectors_are_plain_numbers() -> None:
    (item,) = decode(npy(np.array([0, 1, 254, 255], np.uint8)), "", VECTOR_MODEL).items
    assert item.tolist() == [0.0, 1.0, 254.0, 255.0]


def safetensors_header(header: dict[str, object], data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def npy_header(text: str, data: bytes = b"") -> bytes:
    padded = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + data


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + end


BROKEN = {
    "empty": (b"", "", 400, "empty"),
    "unknown": (b"hello", "text/plain", 415, "accepted are"),
    "truncated JSON": (b'{"data": [[0.1, 0.', "", 400, "not valid JSON"),
    "JSON list": (b"[1, 2]", "", 400, '"data"'),
    "JSON without data": (b'{"x": [1]}', "", 400, '"data"'),
    "JSON string": (b'{"data": "x"}', "", 400, "got text"),
    "JSON with a word inside": (b'{"data": [[1, "a"]]}', "", 400, "numbers only"),
    "JSON with null inside": (b'{"data": [[1, null]]}', "", 400, "numbers only"),
    "JSON with a boolean inside": (b'{"data": [[1, true]]}', "", 400, "numbers only"),
    "ragged JSON": (b'{"data": [[1, 2], [3]]}', "", 400, "ragged"),
    "ragged JSON that adds up": (b'{"data": [[1, 2], [3], [4, 5, 6]]}', "", 400, "ragged"),
    "JSON hiding a list": (b'{"data": [[1, [2]]]}', "", 400, "mixes"),
    "JSON NaN": (b'{"data": [[NaN, 1]]}', "", 400, "not valid JSON"),
    "JSON beyond float32": (b'{"data": [[1e300, 1]]}', "", 422, "finite"),
    "deep JSON": (b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "", 400, "."),
    "empty tensor": (b'{"data": [[]]}', "", 422, "empty"),
    "wrong channels": (npy(np.zeros((4, 8, 8), np.float32)), "", 422, r"\[3, \*, \*\]"),
    "too many dimensions": (npy(np.zeros((1, 1, 3, 8, 8), np.float32)), "", 422, "items of shape"),
    "npy with objects": (npy(np.array([{}, []], dtype=object)), "", 400, "numbers"),
    "npy with text": (npy(np.array(["a"])), "", 400, "numbers"),
    "npy NaN": (npy(np.full((3, 2, 2), np.nan, np.float32)), "", 422, "NaN"),
    "npy truncated": (npy(CHW)[:-1], "", 400, "bytes"),
    "npy that declares a giant": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000, 1000000)}"),
        "",
        400,
        "declares",
    ),
    "npy with code in its header": (npy_header("__import__('os').system('true')"), "", 400, "header"),
    "npy with a negative size": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4)}", b"\0" * 16),
        "",
        400,
        ".",
    ),
    "npy of no rows and too many columns": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9999999999999999999)}"),
        "",
        400,
        "beyond what any array can have",
    ),
    "npy of no rows and too many of everything": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9999999999, 9999999999)}"),
        "",
        400,
        "beyond what any array can have",
    ),
    "safetensors of no rows and too many columns": (
        safetensors_header({"data": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}),
        "application/x-safetensors",
        400,
        "beyond what any array can have",
    ),
    "msgpack bytes of no rows and too many columns": (
        msgspec.msgpack.encode({"data": b"", "shape": [0, 2**61]}),
        "application/msgpack",
        400,
        "beyond what any array can have",
    ),
    "safetensors that overlap": (
        safetensors_header(
            {
                "data": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
                "x": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
            },
            bytes(24),
        ),
        "application/x-safetensors",
        400,
        "overlap at byte 8",
    ),
    "safetensors with a hole": (
        safetensors_header(
            {
                "data": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "x": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]},
            },
            bytes(12),
        ),
        "application/x-safetensors",
        400,
        "a hole at byte 8",
    ),
    "safetensors that begin late": (
        safetensors_header({"data": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
        "application/x-safetensors",
        400,
        "a hole at byte 4",
    ),
    "safetensors with bytes to spare": (
        safetensors_header({"data": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(7)),
        "application/x-safetensors",
        400,
        "3 bytes behind its last tensor",
    ),
    "safetensors whose other tensor is none": (
        safetensors_header({"data": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "x": 1}),
        "application/x-safetensors",
        400,
        "safetensors",
    ),
    "a long msgpack list with a null": (
        b"\x81\xa4data\xdd" + struct.pack(">I", 2**17 + 1) + b"\x01" * 2**17 + b"\xc0",
        "application/msgpack",
        400,
        "no number stands",
    ),
    "a long msgpack list with a text": (
        b"\x81\xa4data\xdd" + struct.pack(">I", 2**17 + 1) + b"\xa1x" + b"\x01" * 2**17,
        "application/msgpack",
        400,
        "no number stands",
    ),
    "a long msgpack list with a list": (
        b"\x81\xa4data\xdd" + struct.pack(">I", 2**17 + 1) + b"\x01" * 2**17 + b"\x91\x01",
        "application/msgpack",
        400,
        "no number stands",
    ),
    "safetensors junk": (b"\xff" * 64, "application/x-safetensors", 400, "safetensors"),
    "safetensors without data": (
        safetensors.numpy.save({"x": CHW}),
        "application/x-safetensors",
        400,
        'named "data"',
    ),
    "safetensors that declares a giant": (
        safetensors_header({"data": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, b"\0" * 4),
        "application/x-safetensors",
        400,
        "declares",
    ),
    "safetensors that points outside": (
        safetensors_header({"data": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}, b"\0" * 16),
        "application/x-safetensors",
        400,
        "outside",
    ),
    "safetensors whose header is all there is": (
        safetensors_header({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(30_000)}),
        "application/x-safetensors",
        400,
        "longer than",
    ),
    "npy of NumPy's Python 2": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1L,)}", b"\0" * 4),
        "",
        400,
        "header",
    ),
    "npy of version 1.8": (npy(CHW).replace(b"\x01\x00", b"\x01\x08", 1), "", 400, "version"),
    "npy whose shape is a number": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (4)}", b"\0" * 16),
        "",
        400,
        "tuple",
    ),
    "npy with a fourth field": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'x': 1}", b"\0" * 16),
        "",
        400,
        "alone",
    ),
    "npy without a dtype": (
        npy_header("{'fortran_order': False, 'shape': (4,), 'shape': (4,)}", b"\0" * 16),
        "",
        400,
        "descr",
    ),
    "npy of a dtype that does not exist": (
        npy_header("{'descr': '<q4', 'fortran_order': False, 'shape': (4,)}", b"\0" * 16),
        "",
        400,
        "header",
    ),
    "npy with a header that nests": (npy_header("(" * 5000 + ")" * 5000), "", 400, "header"),
    "two million lists": (b'{"data": [' + b"[1]," * 2_000_000 + b"[1]]}", "", 413, "lists"),
    "two million msgpack lists": (
        b"\x81\xa4data\xdd" + struct.pack(">I", 2_000_000) + b"\x91\x01" * 2_000_000,
        "application/msgpack",
        413,
        "lists",
    ),
    "msgpack of 17 million empty lists": (
        b"\x81\xa4data\xdd" + struct.pack(">I", 17_000_000) + b"\x90" * 17_000_000,
        "application/msgpack",
        413,
        "max_elements",
    ),
    "a bracket beside two million numbers": (
        b'{"x": "[", "data": [' + b"1," * 2_000_000 + b"1]}",
        "",
        400,
        "nothing but",
    ),
    "msgpack junk": (b"\xc1", "application/msgpack", 400, "msgpack"),
    "msgpack that declares a giant": (b"\x81\xa4data\xdd\xff\xff\xff\xff", "application/msgpack", 400, "msgpack"),
    "deep msgpack": (b"\x81\xa4data" + b"\x91" * 100_000, "application/msgpack", 400, "."),
    "msgpack words": (msgspec.msgpack.encode({"data": ["1", "2"]}), "application/msgpack", 400, "numbers"),
    "msgpack nulls": (msgspec.msgpack.encode({"data": [None]}), "application/msgpack", 400, "."),
    "ragged msgpack": (msgspec.msgpack.encode({"data": [[1.0], [1.0, 2.0]]}), "application/msgpack", 400, "equally"),
    "msgpack bytes of another length": (
        msgspec.msgpack.encode({"data": b"1234", "shape": [3, 5, 6]}),
        "application/msgpack",
        400,
        "declares",
    ),
    "JPEG magic and nothing else": (b"\xff\xd8\xff\xe0junk", "", 400, "header is corrupt"),
    "truncated JPEG": (image("JPEG")[:2000], "", 400, "truncated"),
    "truncated PNG": (image("PNG")[:400], "", 400, "."),
    "truncated WebP": (image("WEBP")[:200], "", 400, "."),
    "JPEG of a thousand scans": (image("JPEG")[:-2] + b"\xff\xda\0\2" * 1000, "", 400, "scans"),
    "large JPEG of many scans": (image("JPEG", (3500, 3500))[:-2] + b"\xff\xda\0\2" * 60, "", 413, "passes"),
    "PNG of 10 gigapixels": (png_header(100_000, 100_000), "", 413, "max_pixels"),
    "thin strip": (image("PNG", (5000, 2)), "", 413, "1:50"),
}


@pytest.mark.usefixtures("json_reader")
@pytest.mark.parametrize("name", BROKEN)
def test_broken_bodies_say_what_is_wrong(name: str) -> None:
    body, content_type, status, text = BROKEN[name]
    with pytest.raises(RowError, match=text) as caught:
        decode(bytearray(body), content_type, IMAGE_MODEL)
    assert caught.value.status == status


LONG = 2**16 * 2 + 3
LONG_LISTS = {
    "small whole numbers": [-32, -1, 0, 1, 127] * (LONG // 5),
    "bytes": [*range(256)] * (LONG // 256 + 1),
    "whole numbers of every size": [sign * 2**power for power in range(63) for sign in (1, -1)] * (LONG // 126 + 1),
    "unsigned": [200] * LONG,
    "unsigned of 64 bits": [2**64 - 1] * LONG,
    "signed": [-30_000] * LONG,
    "doubles": [number / 7 for number in range(LONG)],
    "doubles and whole numbers": [0.5, 3] * LONG,
    "large": [1e38, 2**64 - 1] * LONG,
}


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("name", LONG_LISTS)
def test_long_msgpack_lists_are_read_as_short_ones_are(name: str, single: bool) -> None:
    numbers = LONG_LISTS[name]
    config = WorkerConfig.resolve({"input_shape": None, "nonfinite": "allow"}, {})
    body = msgpack.packb({"data": numbers}, use_single_float=single)
    with np.errstate(over="ignore"):
        expected = np.asarray(numbers, dtype=np.float64).astype(np.float32)
    (item,) = decode(bytearray(body), "application/msgpack", config).items
    np.testing.assert_array_equal(item.numpy(), expected)


def test_of_two_msgpack_keys_the_last_counts() -> None:
    body = b"\x82\xa4data\x94\1\1\1\1\xa4data\x94\1\2\3\4"
    assert decode(body, "application/msgpack", VECTOR_MODEL).items[0].tolist() == [1, 2, 3, 4]


def test_too_many_items() -> None:
    config = WorkerConfig.resolve({"input_shape": [1], "max_items": 3}, {})
    with pytest.raises(RowError, match="max_items") as caught:
        decode(b'{"data": [[1], [2], [3], [4]]}', "", config)
    assert caught.value.status == 413


def test_too_many_numbers() -> None:
    config = WorkerConfig.resolve({"max_elements": 3}, {})
    for body in (b'{"data": [1, 2, 3, 4]}', npy(np.zeros(4, np.float32))):
        with pytest.raises(RowError, match="max_elements") as caught:
            decode(body, "", config)
        assert caught.value.status == 413


def test_images_to_a_vector_model_are_refused() -> None:
    with pytest.raises(RowError, match="takes tensors of shape") as caught:
        decode(image("JPEG"), "", VECTOR_MODEL)
    assert caught.value.status == 415

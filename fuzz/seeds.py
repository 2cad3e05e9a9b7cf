"""The bodies every run starts from: one of each format and dialect, and the classic attacks on them."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import safetensors.numpy
import soundfile
from PIL import Image

_CHW = (np.arange(3 * 4 * 5, dtype=np.float32) / 7).reshape(3, 4, 5)


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (255, 0, 51)).save(stream, "PNG")
    return stream.getvalue()


_PNG_IN_BASE64 = base64.b64encode(_png())


def seeds() -> dict[str, list[bytes]]:
    """Bodies by target."""
    return {
        "json": _json(),
        "msgpack": _msgpack(),
        "npy": _npy(),
        "safetensors": _safetensors(),
        "npz": _npz(),
        "image": _images(),
        "wav": _wav(),
        "flac": _flac(),
        "headers": _headers(),
        "gzip": _gzip(),
        "open-inference": _open_inference(),
        "open-inference-binary": _open_inference_binary(),
    }


def _json() -> list[bytes]:
    return [
        b'{"data": [1, 2.5, -3e-2, 4]}',
        b'{"data": [[0.1, 0.2], [0.3, 0.4]]}',
        json.dumps({"data": _CHW.round(2).tolist()}).encode(),
        json.dumps({"data": [_CHW.round(1).tolist()] * 2, "x": {"y": [None, True, "[["]}}).encode(),
        b'\xef\xbb\xbf{"data":[1]}',
        b'{"data":[],"data":[1]}',
        b'{"data":[[],[]]}',
        b'{"data":[1,[2]]}',
        b'{"data":[[1],[2,3]]}',
        b'{"data":[9223372036854775807,18446744073709551615,18446744073709551616]}',
        b'{"data":[1e308,-1e308,1e309,0.0,-0.0]}',
        b'{"data":[NaN,Infinity]}',
        b'{"data":[120000000000000000000,-99999999999999999999999999999999999999,1e-400]}',
        b'{"id":123456789012345678901,"data":[1,1000000000000000000000.5e-3]}',
        b'{"t":"120000000000000000000 \\u12e01 1e999","i":[1e309],"data":[0.1e1,2]}',
        b'{"data":[1,2],"data":[3,4]}',
        b'{"data":[1,null,"1",true,{"a":[]}]}',
        b'{"d\\u0061ta":[1,2,3,4]}',
        b'{"data":' + b"[" * 1100 + b"1" + b"]" * 1100 + b"}",
        b'{"data":"\\ud800"}',
        b'{"inputs": {"ids": [1, 2, 3], "x": [0.5, -1]}}',
        b'{"inputs": {"ids": [[1, 2], [3, 4]], "x": [[1, 2], [3, 4]]}}',
        b'{"inputs": [{"ids": [1], "x": [1, 2]}, {"ids": [9007199254740993, 2], "x": [1, 2]}]}',
        b'{"inputs": {"ids": [1, [2]], "x": [1, 2]}}',
        b'{"inputs": {"ids": [9223372036854775808], "x": [1e39, 2]}}',
        b'{"inputs": {"ids": [1], "ids": [2], "x": {"b64": "AAAA"}}}',
        b'{"instances": [[1, 2, 3, 4], [5, 6, 7, 8]]}',
        b'{"instances": [{"data": [1, 2, 3, 4]}, {"data": [5, 6, [7], 8]}], "x": "["}',
        b'{"instances": [{"ids": [1], "x": [1, 2]}, {"ids": [1, 2], "x": [1, 2]}]}',
        b'{"instances": [{"b64": "%s"}, {"image_bytes": {"b64": "%s"}}]}' % (_PNG_IN_BASE64, _PNG_IN_BASE64),
        b'{"instances": [[[]], {"data": 1}, "AAAA"]}',
        b'{"data": "data:image/png;base64,%s"}' % _PNG_IN_BASE64,
        b'{"body": "%s", "body": "AAAA"}' % _PNG_IN_BASE64,
        b"[1,2,3]",
        b"  \n\t{}",
        b'{"data": [1, 2',
    ]


def _msgpack() -> list[bytes]:
    raw = {"data": _CHW.tobytes(), "shape": [3, 4, 5], "dtype": "float32"}
    return [
        msgpack.packb({"data": [1, 2.5, -3, 400]}),
        msgpack.packb({"data": _CHW.tolist()}, use_single_float=True),
        msgpack.packb(raw),
        msgpack.packb({"data": b"\x00\x80\xff\x01", "shape": [4], "dtype": "uint8"}),
        msgpack.packb({"data": b"", "shape": [0]}),
        msgpack.packb({"data": [[1], [2, 3]]}),
        msgpack.packb({"data": [1, None, True, "x", b"y", {"z": 1}]}),
        msgpack.packb({"data": b"1234", "shape": [-1, -4]}),
        msgpack.packb({"data": [float("nan"), float("inf"), 2**64 - 1, -(2**63)]}),
        msgpack.packb({1: 2, "data": [1]}),
        msgpack.packb({"data": msgpack.Timestamp(1, 2)}),
        b"\x81\xa4data\xdd\xff\xff\xff\xff",
        msgpack.packb({"data": b"", "shape": [0, 2**63]}),
        msgpack.packb({"data": b"", "shape": [0, 2**61]}),
        b"\x81\xa4data" + b"\x91" * 600 + b"\x01",
        b"\x81\xa4data\xc9\xff\xff\xff\xff\x01",
        b"\xc1",
    ]


OPEN_INFERENCE_JSON_BYTES = 320
"""What stands before the bytes of binary tensors in a seed, padded to this."""


def _open_inference() -> list[bytes]:
    def sent(*inputs: dict[str, Any], **more: Any) -> bytes:
        return json.dumps({"inputs": list(inputs), **more}).encode()

    data = {"name": "data", "datatype": "FP32", "shape": [4], "data": [1, 2.5, -3e-2, 4]}
    ids = {"name": "ids", "datatype": "INT64", "shape": [2, 2], "data": [[1, 2], [9007199254740993, 4]]}
    x = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}
    return [
        sent(data, id="7", outputs=[{"name": "result", "parameters": {"classification": 2}}]),
        sent({**data, "shape": [2, 2], "data": [[1, 2], [3, 4]]}),
        sent({**data, "datatype": "UINT8", "data": [0, 255, 256, 1]}),
        sent({**data, "datatype": "UINT64", "data": [2**64 - 1, 0, 1, 2]}),
        sent({**data, "datatype": "BOOL", "data": [True, False, 1, 0]}),
        sent({**data, "datatype": "FP16", "data": [1e6, 1, 2, 3]}),
        sent(ids, x, parameters={"binary_data_output": True}),
        sent(x, ids, outputs=[{"name": "result"}, {"name": "result"}]),
        sent({**data, "data": [1, [2], 3, 4]}),
        sent({**data, "data": [[1, 2], [3]]}),
        sent({**data, "shape": [2**40, 2**40]}),
        sent({**data, "shape": [0, 2**62], "data": []}),
        sent({**data, "shape": [-1, -4]}),
        sent({**data, "shape": [True] * 4}),
        sent({**data, "parameters": {"binary_data_size": 16}}),
        sent({**data, "parameters": {"shared_memory_region": "x"}}),
        sent({**data, "datatype": "BYTES", "data": ["a", "b", "c", "d"]}),
        sent({**data, "datatype": "FP128"}),
        sent(data, data),
        sent(),
        b'{"inputs": [{"name": "data", "name": "x"}]}',
        b'{"inputs": [1, "x", null, []]}',
        b'{"inputs": {"ids": [1]}}',
        b"[]",
    ]


def _open_inference_binary() -> list[bytes]:
    def sent(*inputs: tuple[str, str, list[int], bytes | int], tail: bytes = b"", **more: Any) -> bytes:
        entries = [
            {
                "name": name,
                "datatype": kind,
                "shape": shape,
                "parameters": {"binary_data_size": data if isinstance(data, int) else len(data)},
            }
            for name, kind, shape, data in inputs
        ]
        text = json.dumps({"inputs": entries, **more}).encode()
        parts = [data for *_, data in inputs if isinstance(data, bytes)]
        return b"".join((text.ljust(OPEN_INFERENCE_JSON_BYTES), *parts, tail))

    floats = np.array([1, 2, 3, 4], np.float32).tobytes()
    ids = np.array([[1, 2], [3, 4]]).tobytes()
    return [
        sent(("data", "FP32", [4], floats), id="x"),
        sent(("data", "UINT8", [2, 2], b"\x00\x80\xff\x01")),
        sent(("data", "BF16", [2], b"\x80\x3f\x00\x40")),
        sent(("data", "BOOL", [4], b"\x00\x01\x02\x00")),
        sent(("ids", "INT64", [2, 2], ids), ("x", "FP32", [2, 2], floats)),
        sent(("x", "FP32", [2, 2], floats), ("ids", "INT64", [2, 2], ids), outputs=[]),
        sent(("data", "FP32", [4], floats), tail=b"more"),
        sent(("data", "FP32", [4], floats[:-1])),
        sent(("data", "FP32", [2**40, 2**40], 16), tail=floats),
        sent(("data", "FP32", [4], -16), tail=floats),
        sent(("data", "FP32", [4], 2**62), ("data", "FP32", [4], -(2**62)), tail=floats),
        sent(("data", "BYTES", [2], struct.pack("<I", 2**32 - 1) + b"abcd")),
        sent(("data", "FP32", [0, 2**62], b"")),
    ]


def _npy() -> list[bytes]:
    arrays = [
        _CHW,
        np.asfortranarray(_CHW),
        _CHW.astype(">f8"),
        np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
        np.arange(4, dtype=np.int64),
        np.array([1, 2, 3, 4], np.float16),
        np.array(3.0),
        np.zeros((0, 4), np.float32),
        np.array([np.nan, np.inf, 1e300, 0]),
        np.array([True, False]),
        np.array([1 + 2j]),
        np.array(["text"]),
        np.zeros(2, dtype=[("a", "<f4"), ("b", "<i2")]),
    ]
    headers = [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000, 1000000)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9999999999999999999)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': ('<f4', (1000, 1000)), 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4L,)}",
        "{'descr': '<f0', 'fortran_order': 1, 'shape': (1,)}",
        "__import__('os').system('true')",
        "(" * 3000 + ")" * 3000,
        "-" * 9000 + "1",
    ]
    return [_saved(array) for array in arrays] + [npy_of(header.encode(), b"\0" * 16) for header in headers]


def _npz() -> list[bytes]:
    def saved(save: Callable[..., None], **arrays: Any) -> bytes:
        stream = io.BytesIO()
        save(stream, **arrays)
        return stream.getvalue()

    ids, x = np.arange(3), np.array([0.5, -1], dtype=np.float32)
    whole = saved(np.savez, ids=ids, x=x)
    return [
        whole,
        saved(np.savez_compressed, ids=ids.astype(np.uint8), x=x.astype(np.float64)),
        saved(np.savez_compressed, ids=np.zeros(2**16, dtype=np.int64), x=x),
        saved(np.savez, ids=ids, x=np.array([np.nan, np.inf])),
        saved(np.savez, ids=ids),
        saved(np.savez, x=np.array([{"a": 1}], dtype=object), ids=ids),
        whole[:-30],
        whole.replace(b"ids.npy", b"../.npy"),
    ]


def _safetensors() -> list[bytes]:
    giant = {"data": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}
    first = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    overlapping = {"data": first, "x": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}
    outside = {"data": {"dtype": "U8", "shape": [4], "data_offsets": [-8, -4]}}
    return [
        safetensors.numpy.save({"data": _CHW}),
        safetensors.numpy.save({"data": _CHW, "other": np.arange(3)}, metadata={"format": "pt"}),
        safetensors.numpy.save({"data": np.arange(4, dtype=np.uint8)}),
        safetensors.numpy.save({"data": np.zeros((0, 4), np.float32)}),
        safetensors.numpy.save({"data": np.array([1e300, np.nan, 1, 2])}),
        safetensors.numpy.save({"x": _CHW}),
        safetensors_of(json.dumps(overlapping).encode(), b"\0" * 12),
        safetensors_of(json.dumps(giant).encode(), b"\0" * 4),
        safetensors_of(json.dumps(outside).encode(), b"\0" * 16),
        safetensors_of(b'{"data":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}', b"\x80\x3f\x00\x40"),
        safetensors_of(b'{"data":{"dtype":"BOOL","shape":[4],"data_offsets":[0,4]}}', b"\x00\x01\x02\x03"),
        safetensors_of(b"[" * 5000, b""),
        b"\xff" * 64,
        b"\0" * 8,
    ]


def _images() -> list[bytes]:
    rows = np.add.outer(np.arange(40), 2 * np.arange(48)) % 256
    picture = Image.fromarray(np.stack([rows, rows[::-1], 255 - rows], -1).astype(np.uint8))
    found = []
    for mode, kind, options in _DIALECTS:
        stream = io.BytesIO()
        picture.convert(mode).save(stream, kind, **options)
        found.append(stream.getvalue())
    jpeg = found[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP"):
        stream = io.BytesIO()
        picture.save(stream, kind, exif=exif)
        found.append(stream.getvalue())
    for greys in (np.linspace(0, 65535, 64 * 64).reshape(64, 64), np.full((32, 32), 300)):
        stream = io.BytesIO()
        Image.fromarray(greys.astype(np.uint16)).save(stream, "PNG")
        found.append(stream.getvalue())
    return [
        *found,
        jpeg + jpeg + b"ftypmp42" + b"\xff\xda" * 80,
        jpeg[:-2] + b"\xff\xda\0\2" * 80 + jpeg[-2:],
        jpeg[:100],
        b"\xff\xd8\xff\xe0" + b'{"data": [1]}',
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)),
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", 999, 999, 8, 2, 0, 0, 1))
        + _chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 2**21))
        + _chunk(b"IDAT", zlib.compress(b"\0" * 2**16))
        + _chunk(b"IEND", b""),
        b"RIFF\xff\xff\xff\xffWEBPVP8X\x0a\0\0\0\x10\0\0\0\xff\xff\xff\xff\xff\xff",
    ]


_DIALECTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("RGB", "JPEG", {}),
    ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
    ("CMYK", "JPEG", {}),
    ("L", "JPEG", {"quality": 5}),
    ("RGB", "PNG", {}),
    ("RGBA", "PNG", {}),
    ("P", "PNG", {"transparency": 3}),
    ("1", "PNG", {"optimize": True}),
    ("I;16", "PNG", {}) if "I;16" in Image.MODES else ("L", "PNG", {}),
    ("RGB", "WEBP", {}),
    ("RGBA", "WEBP", {"lossless": True}),
)


_TONE = np.sin(np.arange(400) / 9).astype(np.float32)


def _wav() -> list[bytes]:
    subtypes = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM")
    stereo = _sound(np.stack([_TONE, -_TONE], 1), 44_100, "WAVEX", "PCM_16")
    plain = _sound(_TONE, 16_000, "WAV", "PCM_16")
    format_chunk = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16)
    return [
        *(_sound(_TONE, 8_000, "WAV", subtype) for subtype in subtypes),
        stereo,
        plain[:-100],
        plain[:40] + b"\xff\xff\xff\xff" + plain[44:],
        plain[:40] + struct.pack("<I", 2**31) + plain[44:],
        plain[:24] + struct.pack("<I", 1) + plain[28:],
        plain[:22] + struct.pack("<H", 65535) + plain[24:],
        _riff(struct.pack("<4sI4s", b"LIST", 4, b"INFO") + format_chunk + struct.pack("<4sIhh", b"data", 4, 1, -1)),
        _riff(struct.pack("<4sI", b"junk", 0) * 500 + format_chunk),
        _riff(struct.pack("<4sIhh", b"data", 4, 1, -1) + format_chunk),
        _riff(format_chunk + struct.pack("<4sI", b"data", 0)),
        b"RIFF\0\0\0\0WAVE",
    ]


def _flac() -> list[bytes]:
    plain = _sound(_TONE, 16_000, "FLAC", "PCM_16")
    hours = bytearray(plain)
    hours[21:26] = bytes([hours[21] | 0x0F]) + b"\xff" * 4
    unknown = bytearray(plain)
    unknown[21:26] = bytes([unknown[21] & 0xF0]) + b"\0" * 4
    return [
        plain,
        _sound(np.stack([_TONE, -_TONE], 1), 44_100, "FLAC", "PCM_24"),
        _sound(np.zeros(20_000, np.float32), 16_000, "FLAC", "PCM_16"),
        plain[:-20],
        bytes(hours),
        bytes(hours[:100]),
        bytes(unknown),
        plain[:8],
        b"fLaC" + b"\x84\0\0\4abcd" * 30,
    ]


def _gzip() -> list[bytes]:
    packed = gzip.compress(b'{"data": [1, 2, 3, 4]}', mtime=0)
    return [
        packed,
        packed + packed,
        packed + b"\0" * 8,
        packed[:-3],
        gzip.compress(b"", mtime=0),
        gzip.compress(bytes(2**20), mtime=0),
        gzip.compress(bytes(range(256)) * 40, 1, mtime=0),
        b"\x1f\x8b\x08\x1c" + bytes(6) + b"\x02\0xyname\0comment\0" + packed[10:],
        b"not gzip",
    ]


def _headers() -> list[bytes]:
    return [
        b"100\nt=1700000000.5\napplication/json\napplication/x-npy",
        b"0\n-1\n\n*/*",
        b"1\n1\n\napplication/x-npz;q=0.9, application/*;q=.5;level=1, *;q=0\nMask",
        b"1\n1\n\n;q=1,,application/x-npy;q=0.0000000001,*/*;q=1e9\nlabels",
        b"1\n1\n\n" + b"*/*;q=0," * 1000 + b"\nauto",
        b"1e999\nnan\nAPPLICATION/MSGPACK; q=\n",
        b"-0\n99999999999999999999\ntext/html",
        "٣\nt=t=1\n\udcff".encode("utf-8", "replace"),
        b"0x10\n1_000\n\x00\x00",
        b" 5 \n",
        b"\n",
    ]


def _saved(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _sound(samples: np.ndarray[Any, Any], rate: int, kind: str, subtype: str) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind, subtype=subtype)
    return stream.getvalue()


def _riff(chunks: bytes) -> bytes:
    """A WAV file of these chunks, its length right."""
    return struct.pack("<4sI4s", b"RIFF", 4 + len(chunks), b"WAVE") + chunks


def npy_of(header: bytes, data: bytes) -> bytes:
    """A version 1 .npy of this header, its length right."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) & 0xFFFF) + header + data


def safetensors_of(header: bytes, data: bytes) -> bytes:
    """A safetensors file of this header, its length right."""
    return struct.pack("<Q", len(header)) + header + data


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _repair_npy(data: bytes) -> bytes:
    end = data.rfind(b"}") + 1
    return npy_of(data[10:end], data[end:]) if end > 10 else data


def _repair_safetensors(data: bytes) -> bytes:
    end = data.rfind(b"}}") + 2
    return safetensors_of(data[8:end], data[end:]) if end > 8 else data


def _repair_png(data: bytes) -> bytes:
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    fixed, at = [data[:8]], 8
    while at + 8 <= len(data):
        length = min(struct.unpack_from(">I", data, at)[0], len(data) - at - 8)
        fixed.append(_chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return b"".join(fixed)


# What a mutated body is given back now and then, so that it gets past the first check: lengths and checksums.
REPAIRS: dict[str, Callable[[bytes], bytes]] = {
    "npy": _repair_npy,
    "safetensors": _repair_safetensors,
    "image": _repair_png,
}

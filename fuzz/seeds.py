"""The bodies every run starts from: one of each format and dialect, and the classic attacks on them."""

from __future__ import annotations

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
from PIL import Image

_CHW = (np.arange(3 * 4 * 5, dtype=np.float32) / 7).reshape(3, 4, 5)


def seeds() -> dict[str, list[bytes]]:
    """Bodies by target."""
    return {
        "json": _json(),
        "msgpack": _msgpack(),
        "npy": _npy(),
        "safetensors": _safetensors(),
        "npz": _npz(),
        "image": _images(),
        "headers": _headers(),
        "gzip": _gzip(),
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

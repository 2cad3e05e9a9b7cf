"""What decoding takes beside the body, measured in a process of its own: the figures of docs/reliability.md."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MIB = 2**20
SIDE = 2200
MAX_PIXELS = SIDE * SIDE
SLACK = 24 * MIB  # what an allocator keeps, pages a library touches for the first time
PICTURES = ("JPEG", "JPEG, own size", "JPEG CMYK", "PNG", "PNG RGBA", "PNG 16", "turned", "WebP", "progressive")

# The largest of each kind that is accepted, and what is refused, one after the other: {name: [status, bytes]}.
MEASURE = """
import ctypes, gc, io, json, re, struct
import numpy as np
from PIL import Image
from smartbatch_worker.kernels import json_numbers
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.flow.decode import decode
from smartbatch_worker.errors import RowError

def memory(what):
    return int(re.search(what + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

def saved(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return bytearray(stream.getvalue())

def square(pixels):
    return Image.new("RGB", (int(pixels ** 0.5),) * 2, (10, 200, 30))

def msgpack_list(entries, length):
    return bytearray(b"\\x81\\xa4data\\xdd" + struct.pack(">I", length) + entries)

M, MAX = 2**19, MAX_PIXELS
turned = Image.Exif()
turned[0x0112] = 6
bodies = {
    "small": lambda: saved(square(10000), "JPEG"),
    "JPEG": lambda: saved(square(MAX), "JPEG"),
    "JPEG, own size": lambda: saved(square(MAX), "JPEG"),
    "turned": lambda: saved(square(MAX), "JPEG", exif=turned),
    "JPEG CMYK": lambda: saved(square(MAX).convert("CMYK"), "JPEG"),
    "progressive": lambda: saved(square(MAX * 0.79), "JPEG", progressive=True, subsampling=0),
    "progressive, large": lambda: saved(square(MAX), "JPEG", progressive=True, subsampling=0),
    "PNG": lambda: saved(square(MAX), "PNG", compress_level=1),
    "PNG RGBA": lambda: saved(square(MAX).convert("RGBA"), "PNG", compress_level=1),
    "PNG 16": lambda: saved(Image.fromarray(np.zeros((int(MAX ** 0.5),) * 2, np.uint16)), "PNG", compress_level=1),
    "WebP": lambda: saved(square(MAX * 0.49), "WEBP", lossless=True, method=0),
    "WebP, large": lambda: saved(square(MAX), "WEBP", lossless=True, method=0),
    "msgpack, whole numbers": lambda: msgpack_list(b"\\1" * 16 * M, 16 * M),
    "msgpack, bytes": lambda: msgpack_list(b"\\x7f\\xcc\\xff" * 4 * M, 8 * M),
    "msgpack, doubles": lambda: msgpack_list((b"\\xcb" + bytes(8)) * 2 * M, 2 * M),
    "JSON": lambda: bytearray(b'{"data":[' + b"1," * (8 * M) + b"1]}"),
    "JSON, large numbers": lambda: bytearray(b'{"data":[' + b"120000000000000000000," * M + b"1]}"),
}
picture = WorkerConfig.resolve({"max_pixels": MAX}, {})
own_size = WorkerConfig.resolve({"max_pixels": MAX, "image_resize": None, "image_crop": None}, {})
tensor = WorkerConfig.resolve({"input_shape": None}, {})
measured = {}
for name, make in bodies.items():
    body = make()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    open("/proc/self/clear_refs", "w").write("5")  # the high-water mark begins anew
    before, status = memory("VmRSS"), 200
    content_type = "application/msgpack" if name.startswith("msgpack") else ""
    config = own_size if name.endswith("own size") else picture
    try:
        decode(body, content_type, tensor if name.startswith(("msgpack", "JSON")) else config)
    except RowError as error:
        status = error.status
    measured[name] = [status, memory("VmHWM") - before, len(body)]
print(json.dumps(measured))
"""


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[int, int, int]]:
    """By name: status, bytes taken at most, bytes of the body."""
    if sys.platform != "linux":
        pytest.skip("the kernel's high-water mark is Linux's")
    code = MEASURE.replace("MAX_PIXELS", str(MAX_PIXELS))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    figures: dict[str, tuple[int, int, int]] = json.loads(done.stdout)
    return figures


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_takes_8_bytes_a_pixel_at_most(measured: dict[str, tuple[int, int, int]], name: str) -> None:
    status, taken, _ = measured[name]
    assert status == 200
    assert taken <= 8 * MAX_PIXELS + SLACK, f"{taken / MIB:.0f} MiB"


@pytest.mark.parametrize("name", ["WebP, large", "progressive, large"])
def test_what_would_take_more_is_refused_and_takes_nothing(
    measured: dict[str, tuple[int, int, int]], name: str
) -> None:
    status, taken, _ = measured[name]
    assert status == 413
    assert taken <= SLACK


@pytest.mark.parametrize("name", ["msgpack, whole numbers", "msgpack, bytes", "msgpack, doubles"])
def test_msgpack_takes_its_float32_and_a_little(measured: dict[str, tuple[int, int, int]], name: str) -> None:
    status, taken, num_bytes = measured[name]
    assert status == 200
    assert taken <= 6 * num_bytes + SLACK, f"{taken / num_bytes:.1f} x the body"


@pytest.mark.parametrize(("name", "times"), [("JSON", 20), ("JSON, large numbers", 4)])
def test_json_takes_so_many_times_the_body(measured: dict[str, tuple[int, int, int]], name: str, times: int) -> None:
    """simdjson keeps 16 bytes a number and 4 a comma: a digit and a comma, 2 bytes of body, are the worst."""
    status, taken, num_bytes = measured[name]
    assert status == 200
    assert taken <= times * num_bytes + SLACK, f"{taken / num_bytes:.1f} x the body"

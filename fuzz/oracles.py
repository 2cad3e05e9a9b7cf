"""What another reader makes of the same bytes: a body we accept must mean there what it means to us."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import safetensors.numpy
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

Array = np.ndarray[Any, Any]


def read_json(body: bytes) -> Array:
    """With the standard library, whose whole numbers have no end; as doubles they are infinite beyond 1.8e308."""
    document = json.loads(body, parse_int=float)
    if "data" in document:
        return np.asarray(document["data"], dtype=np.float64)
    first = document["instances"][0]  # which is what is compared
    return np.asarray(first["data"] if isinstance(first, dict) else first, dtype=np.float64)


def read_msgpack(body: bytes) -> Array:
    """With msgpack's own library; text that we skip need not be UTF-8."""
    document = msgpack.unpackb(body, strict_map_key=False, unicode_errors="replace")
    if isinstance(document["data"], bytes):
        flat = np.frombuffer(document["data"], dtype=document.get("dtype", "float32"))
        return flat.reshape(document["shape"])
    return np.asarray(document["data"], dtype=np.float64)


def read_npy(body: bytes) -> Array:
    """With NumPy."""
    return np.asarray(np.load(io.BytesIO(body), allow_pickle=False))


def read_safetensors(body: bytes) -> Array | None:
    """With the safetensors library; None where it refuses what concerns other tensors than "data"."""
    try:
        return safetensors.numpy.load(body)["data"]
    except (safetensors.SafetensorError, KeyError, TypeError):  # bf16 is no NumPy type
        return None


OF_FORMATS: dict[str, Callable[[bytes], Array | None]] = {
    "json": read_json,
    "msgpack": read_msgpack,
    "npy": read_npy,
    "safetensors": read_safetensors,
}
"""By target; a format that no other library reads has none."""


def read_gzip(body: bytes) -> bytes | None:
    """With the standard library; None where it refuses."""
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error):
        return None


def mean_of_16_bit_grey(body: bytes, side: int) -> float | None:
    """Of a square 16-bit grey PNG the mean, 0 to 255, that a model of `side` pixels is shown; None for other images."""
    image = Image.open(io.BytesIO(body), formats=["PNG"]) if body[:8] == b"\x89PNG\r\n\x1a\n" else None
    if image is None or image.mode != "I;16" or image.width != image.height or "transparency" in image.info:
        return None
    greys = torch.from_numpy(np.asarray(image).astype(np.float32) / 257)[None]
    return float(transforms.resize(greys, [side], antialias=True).mean())

"""What another reader makes of the same bytes: a body we accept must mean there what it means to us."""

from __future__ import annotations

import io
import json
from typing import Any

import msgpack
import numpy as np
import safetensors.numpy

Array = np.ndarray[Any, Any]


def read_json(body: bytes) -> Array:
    """With the standard library; of two keys of one name the first counts."""
    document = json.loads(body, object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    return np.asarray(document["data"], dtype=np.float64)


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

"""The images and bodies every contestant gets: seeded, natural in their statistics, the same bytes for all."""

from __future__ import annotations

import io
import json
from functools import lru_cache

import numpy as np
from PIL import Image
from smartbatch_worker.contract.shapes import IMAGENET_MEAN, IMAGENET_STD

SIZES = ((375, 500), (500, 375), (333, 500), (500, 500), (480, 640), (400, 300), (256, 341), (427, 640))
"""Of the pictures, as ImageNet has them: height and width."""


@lru_cache(maxsize=64)
def pixels(height: int, width: int, seed: int) -> np.ndarray:
    """[height, width, 3] uint8: a 1/f spectrum, as photographs have, so that JPEG sizes are realistic.

    White noise would make JPEGs ten times too large, a flat colour ten times too small.
    """
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    falloff = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width)) ** 1.1
    grey = np.fft.ifft2(falloff * np.fft.fft2(rng.standard_normal((height, width)))).real
    planes = [
        grey + 0.35 * np.fft.ifft2(falloff * np.fft.fft2(rng.standard_normal((height, width)))).real for _ in range(3)
    ]
    image = np.stack(planes, axis=-1)
    image = 128 + 52 * (image - image.mean()) / image.std()
    clipped: np.ndarray = np.clip(image, 0, 255).astype(np.uint8)
    return clipped


def jpeg(height: int, width: int, seed: int, quality: int = 85) -> bytes:
    """One JPEG of `pixels`, 4:2:0 as cameras and web sites write it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(height, width, seed)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def uint8_npy(size: int, seed: int, items: int = 0) -> bytes:
    """A .npy of [3, size, size] uint8, or [items, 3, size, size] when items > 0."""
    planes = np.ascontiguousarray(pixels(size, size, seed).transpose(2, 0, 1))
    if items:
        planes = np.ascontiguousarray(np.broadcast_to(planes, (items, *planes.shape)))
    buffer = io.BytesIO()
    np.save(buffer, planes)
    return buffer.getvalue()


def tensor(size: int, seed: int) -> np.ndarray:
    """[3, size, size] float32, normalised as ImageNet models expect."""
    hwc = pixels(size, size, seed).astype(np.float32) / 255
    return np.ascontiguousarray(
        ((hwc - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)).transpose(2, 0, 1)
    )


def json_body(size: int, seed: int) -> bytes:
    """`{"data": nested lists}` at full double digits, as `json.dumps(array.tolist())` writes it: 3 MB at 224."""
    return json.dumps({"data": tensor(size, seed).astype(np.float64).tolist()}).encode()

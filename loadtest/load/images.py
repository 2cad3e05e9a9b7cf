"""The pictures that load is made of: a folder the user gives, or seeded ones."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from smartbatch_worker.contract.shapes import IMAGENET_MEAN, IMAGENET_STD

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
RESIZE = 256  # pixels of the short side, as torchvision's ImageNet preprocessing has it
CROP = 224
MEAN = np.array(IMAGENET_MEAN, dtype=np.float32)
STD = np.array(IMAGENET_STD, dtype=np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One picture in the three forms that bodies are made from."""

    name: str
    """File name, or "seed 0 picture 3"."""
    jpeg: bytes
    """The file as it is where it already is a JPEG, else encoded at quality 90."""
    pixels: npt.NDArray[np.uint8]
    """Resized and centre-cropped, [3, 224, 224]."""

    def normalised(self) -> npt.NDArray[np.float32]:
        """The pixels as a model takes them: scaled to 0-1, ImageNet mean and deviation, [3, 224, 224]."""
        scaled = self.pixels.astype(np.float32) / np.float32(255)
        normal: npt.NDArray[np.float32] = (scaled - MEAN[:, None, None]) / STD[:, None, None]
        return normal

    def npy(self, *, normalised: bool = False) -> bytes:
        """The pixels, or what they are normalised, in numpy's own file format."""
        buffer = io.BytesIO()
        np.save(buffer, self.normalised() if normalised else self.pixels, allow_pickle=False)
        return buffer.getvalue()


def load_pictures(folder: Path, limit: int) -> list[Picture]:
    """Read up to `limit` pictures of a folder, in the order of their names.

    Raises:
        ValueError: the folder holds no JPEG, PNG or WebP.
    """
    if not folder.is_dir():
        raise ValueError(f"images must be a folder, got {folder}")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)[:limit]
    if not paths:
        raise ValueError(f"no picture ({', '.join(IMAGE_SUFFIXES)}) in {folder}")
    return [_read(path) for path in paths]


def seeded_pictures(count: int, seed: int) -> list[Picture]:
    """Make `count` pictures, the same ones for the same seed on every machine."""
    rng = np.random.default_rng(seed)
    return [_draw(rng, f"seed {seed} picture {index}") for index in range(count)]


def _read(path: Path) -> Picture:
    raw = path.read_bytes()
    with Image.open(io.BytesIO(raw)) as opened:
        is_jpeg = opened.format == "JPEG"
        image = opened.convert("RGB")
    return Picture(name=path.name, jpeg=raw if is_jpeg else _jpeg(image), pixels=_crop(image))


def _draw(rng: np.random.Generator, name: str) -> Picture:
    """Soft colour fields under a few hard-edged shapes: compresses about as a photograph does."""
    width, height = 320, 280
    coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
    field = coarse.resize((width, height), Image.Resampling.BICUBIC)
    canvas = np.asarray(field, dtype=np.int16).copy()
    for _ in range(6):
        left, top = int(rng.integers(0, width - 40)), int(rng.integers(0, height - 40))
        right, bottom = left + int(rng.integers(20, 140)), top + int(rng.integers(20, 140))
        canvas[top:bottom, left:right] = (canvas[top:bottom, left:right] + rng.integers(0, 256, 3)) // 2
    canvas += rng.normal(0, 6, canvas.shape).astype(np.int16)
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    return Picture(name=name, jpeg=_jpeg(image), pixels=_crop(image))


def _crop(image: Image.Image) -> npt.NDArray[np.uint8]:
    scale = RESIZE / min(image.size)
    resized = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (resized.width - CROP) // 2, (resized.height - CROP) // 2
    pixels = np.asarray(resized.crop((left, top, left + CROP, top + CROP)), dtype=np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()

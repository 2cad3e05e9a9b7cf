"""Drawn pictures of mixed sizes with red squares, green discs and blue triangles in them, and where those are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

NAMES = ("background", "red square", "green disc", "blue triangle")
"""By label; 0 is nothing, as torchvision counts."""
COLOURS = ((0, 0, 0), (210, 30, 30), (30, 180, 40), (40, 60, 220))
_MIN_SIDE, _MAX_SIDE = 180, 420  # of a picture, pixels
_MIN_SHAPE, _MAX_SHAPE = 44, 80


@dataclass(frozen=True)
class Drawn:
    """One picture, and what is in it."""

    image: Image.Image
    boxes: np.ndarray
    """float32 [K, 4]: left, top, right, bottom, in pixels."""
    labels: np.ndarray
    """int64 [K]: indexes of NAMES."""


def draw(generator: np.random.Generator, size: tuple[int, int] | None = None) -> Drawn:
    """A picture with one to three shapes that do not touch, of a width and height given or any."""
    width, height = size or (int(side) for side in generator.integers(_MIN_SIDE, _MAX_SIDE + 1, 2))
    shade = generator.integers(90, 200, (4, 4, 1)) + generator.integers(-12, 13, (4, 4, 3))
    image = Image.fromarray(shade.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for _ in range(int(generator.integers(1, 4))):
        side = int(generator.integers(_MIN_SHAPE, _MAX_SHAPE + 1))
        left, top = int(generator.integers(0, width - side)), int(generator.integers(0, height - side))
        box = (left, top, left + side, top + side)
        if any(_overlap(box, other) for other in boxes):
            continue
        label = int(generator.integers(1, len(NAMES)))
        _shape(pen, label, box)
        boxes.append(box)
        labels.append(label)
    return Drawn(image, np.array(boxes, np.float32), np.array(labels, np.int64))


def _shape(pen: ImageDraw.ImageDraw, label: int, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    if NAMES[label].endswith("square"):
        pen.rectangle(box, COLOURS[label])
    elif NAMES[label].endswith("disc"):
        pen.ellipse(box, COLOURS[label])
    else:
        pen.polygon([(left, bottom), (right, bottom), ((left + right) // 2, top)], COLOURS[label])


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]

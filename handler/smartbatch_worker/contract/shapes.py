"""Shapes of items, and what ImageNet's pictures are normalised by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

ItemShape: TypeAlias = tuple[Any, ...]
"""Of one item: the sizes of its one tensor, [3, 224, 224]; or (name, sizes) of each named input."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Batches to measure a model with."""

    shape: ItemShape
    """Of each item."""
    batch: Callable[[int], Any]
    """One of so many items, on the host."""


@dataclass(frozen=True, slots=True)
class Samples:
    """What a model of named inputs is measured with, and what tells whether a compiler has read all of it."""

    measured: Sequence[Sample] = ()
    compared: Sequence[Any] = ()
    """Batches on the host."""


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def concrete_shape(
    shape: Sequence[int | None] | None, image_size: tuple[int, int] | None, free_size: int | None = None
) -> tuple[int, ...] | None:
    """A shape that an item of `shape` may have; None where that cannot be told.

    Args:
        shape: an input_shape: None stands for a free size, and for a shape that nobody knows.
        image_size: height and width of an image [C, H, W] where they are free; None: not known.
        free_size: what other free sizes are; None: not known.
    """
    if shape is None:
        return None
    is_image = len(shape) == 3 and shape[0] is not None
    free: Sequence[int | None] = (None, *(image_size or (None, None))) if is_image else [free_size] * len(shape)
    sizes = [its if size is None else size for size, its in zip(shape, free, strict=True)]
    return None if None in sizes else tuple(size for size in sizes if size is not None)


def takes_pictures(shape: Sequence[int | None] | None, num_means: int) -> bool:
    """Whether a model of one input takes pictures' files: [C, H, W], with a mean for each of 1 or 3 channels."""
    return shape is not None and len(shape) == 3 and shape[0] == num_means and num_means in (1, 3)


def spelled(shape: ItemShape) -> str:
    """A shape for people and as a key of JSON: 3x224x224, or ids[128] mask[128]."""
    if not _is_named(shape):
        return "x".join(map(str, shape))
    return " ".join(f"{name}[{'x'.join(map(str, sizes))}]" for name, sizes in shape)


def num_numbers(shape: ItemShape) -> int:
    """How many numbers an item of this shape has."""
    return sum(math.prod(sizes) for _, sizes in shape) if _is_named(shape) else math.prod(shape)


def _is_named(shape: ItemShape) -> bool:
    return bool(shape) and isinstance(shape[0], tuple)

"""Shapes of items, and what ImageNet's pictures are normalised by."""

from __future__ import annotations

from collections.abc import Sequence

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

"""Sizes that pictures are resized and cut to: how a setting spells them, and what they come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

Sides: TypeAlias = "int | tuple[int, int] | None"
"""A square's side, (height, width), or None: as the picture has it."""

FITS = ("crop", "squash", "letterbox")
"""How a picture that is no square becomes `image_resize`: it covers it, becomes it, or fits within it."""


def parse_sides(value: Any) -> Sides:
    """A setting: a number, two of them (height, width), or none.

    Raises:
        ValueError, TypeError: it is none of these.
    """
    if value is None or value in ("", "null", "none"):
        return None
    parts = value.strip("[]() ").split(",") if isinstance(value, str) else value
    numbers = [_whole(part) for part in (parts if isinstance(parts, (list, tuple)) else [parts])]
    if len(numbers) > 2:
        raise ValueError("one side, or height and width")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def height_and_width(sides: Sides | Sequence[int]) -> tuple[int, int] | None:
    """Both sides of a setting; JSON's lists too."""
    if sides is None:
        return None
    height, width = (sides, sides) if isinstance(sides, int) else sides
    return height, width


def size_shown(resize: Sides, crop: Sides, fit: str) -> tuple[int, int] | None:
    """Height and width of every picture that a model is shown; None where they are each picture's own."""
    return height_and_width(crop if crop is not None or fit != "squash" else resize)


def check_sides(resize: Sides, crop: Sides, fit: str) -> None:
    """Refuse sizes that make no picture.

    Raises:
        ValueError: which, and what is accepted.
    """
    for name, sides in (("image_resize", resize), ("image_crop", crop)):
        pair = height_and_width(sides)
        if pair is not None and min(pair) < 1:
            raise ValueError(f"{name} must be a number of at least 1, two of them (height, width) or none; got {sides}")
    within, cut = height_and_width(resize), height_and_width(crop)
    if fit != "crop" and within is None:
        raise ValueError(f"image_fit: {fit} needs image_resize, the size it brings a picture to; got none")
    is_larger = within is not None and cut is not None and any(c > r for c, r in zip(cut, within, strict=True))
    if fit != "letterbox" and is_larger:  # which alone has a background to fill up with
        raise ValueError(f"image_crop must not exceed image_resize; got {crop} > {resize}")


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise TypeError
    return int(value)

"""Pixels to the size that the model is shown: resized, then the centre cut out, or the rest filled up.

    image_fit   crop: covers image_resize      squash: becomes it      letterbox: fits within it
    image_crop  the centre of that; what is too small for it lies on image_background

Either may be none, and that step is left out.
"""

from __future__ import annotations

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.pictures import height_and_width


def prepare() -> None:
    """Import what resizing needs, so that no first picture waits for it.

    It is as much as all of torch, for one function, so that workers that see no picture start without it.
    """
    import torchvision.transforms.v2  # noqa: F401


def fit(image: torch.Tensor, config: WorkerConfig) -> torch.Tensor:
    """uint8 [C, H, W] to uint8 [C, h, w]; h and w are `config.image_size`, or the picture's own."""
    return _centre(_resize(image, config), config)


def size_resized(image: torch.Tensor, config: WorkerConfig) -> tuple[int, int]:
    """Height and width of a picture [C, H, W] that is resized, before the centre is cut out of it."""
    box = height_and_width(config.image_resize)
    own = image.shape[-2], image.shape[-1]
    if box is None:
        return own
    if not _covers_a_square(box, config):
        height, width = _target(image, box, config.image_fit)
        return height, width
    longer = int(box[0] * max(own) / min(own))
    return (longer, box[0]) if own[0] > own[1] else (box[0], longer)


def _covers_a_square(box: tuple[int, int], config: WorkerConfig) -> bool:
    """torchvision's ImageClassification preset, which cuts the longer side's length to a whole number."""
    return config.image_fit == "crop" and box[0] == box[1]


def _resize(image: torch.Tensor, config: WorkerConfig) -> torch.Tensor:
    box = height_and_width(config.image_resize)
    if box is None:
        return image
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    # On uint8, where it is native and exact. What torchvision has no preset for is timm's, which takes the nearest.
    sides = [box[0]] if _covers_a_square(box, config) else _target(image, box, config.image_fit)
    interpolation = InterpolationMode(config.image_interpolation)  # named alike
    resized: torch.Tensor = transforms.resize(image, sides, interpolation=interpolation, antialias=True)
    return resized


def _target(image: torch.Tensor, box: tuple[int, int], how: str) -> list[int]:
    """Height and width that the picture becomes."""
    if how == "squash":
        return list(box)
    ratios = [own / wanted for own, wanted in zip(image.shape[1:], box, strict=True)]
    ratio = max(ratios) if how == "letterbox" else min(ratios)
    return [max(1, round(own / ratio)) for own in image.shape[1:]]  # a strip may be thinner than a pixel


def _centre(image: torch.Tensor, config: WorkerConfig) -> torch.Tensor:
    """As torchvision's `center_crop` rounds, with a background where that has black."""
    canvas = height_and_width(config.image_crop)
    if canvas is None or tuple(image.shape[1:]) == canvas:
        return image
    height, width = (min(own, wanted) for own, wanted in zip(image.shape[1:], canvas, strict=True))
    top, left = (round((own - kept) / 2) for own, kept in zip(image.shape[1:], (height, width), strict=True))
    cut = image[:, top : top + height, left : left + width]
    if (height, width) == canvas and config.image_resize is not None:
        return cut
    # A copy: a corner of a large picture must not keep all of it in memory.
    filled = _background(config, image.shape[0]).to(image.device).repeat(*canvas, 1).permute(2, 0, 1)
    top, left = (canvas[0] - height) // 2, (canvas[1] - width) // 2
    filled[:, top : top + height, left : left + width] = cut
    return filled


def _background(config: WorkerConfig, num_channels: int) -> torch.Tensor:
    """uint8 [C]: the colour, or its brightness where the model sees grey."""
    red, green, blue = config.image_background
    grey = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16  # as Pillow has it
    return torch.tensor([red, green, blue] if num_channels == 3 else [grey], dtype=torch.uint8)

"""Pictures of many sizes brought to one size at once, on a GPU: what `fit` does to each, in two products for all.

A resize is a weighted sum along each axis, so a picture's is two matrices, whose rows say what of the picture a row or
a column of the result is made of: only those rows are made that the crop keeps. One by one, a picture costs eight
launches of kernels that a GPU hardly notices, and Python's time for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.pictures import height_and_width
from smartbatch_worker.formats.images import fit

MAX_PADDED = 3.0
"""Times a picture's own pixels: what it may have once it is as high and as wide as the largest of its group."""


def fit_all(images: Sequence[torch.Tensor], config: WorkerConfig) -> list[torch.Tensor]:
    """Each as `fit.fit` has it, to a step of 255.

    Args:
        images: uint8 [C, H, W] each, all on one device.
        config: its image_* fields.

    Returns:
        uint8 [C, h, w], in order.
    """
    fitted: list[torch.Tensor | None] = [None] * len(images)
    together = [at for at, image in enumerate(images) if _is_cut_from(image, config)]
    for group in _alike(together, images):
        resized = _resized([images[at] for at in group], config)
        for at, image in zip(group, resized.unbind(0), strict=True):
            fitted[at] = image
    return [fit.fit(image, config) if done is None else done for image, done in zip(images, fitted, strict=True)]


def _is_cut_from(image: torch.Tensor, config: WorkerConfig) -> bool:
    """Whether what the model is shown is a part of the resized picture, by sums of its neighbours."""
    canvas = height_and_width(config.image_crop)
    if canvas is None or config.image_resize is None or config.image_interpolation != "bilinear":
        return False
    height, width = fit.size_resized(image, config)
    return height >= canvas[0] and width >= canvas[1]


def _alike(places: Sequence[int], images: Sequence[torch.Tensor]) -> Iterator[list[int]]:
    """Groups of which none is padded much, the largest pictures first."""
    group: list[int] = []
    height = width = 0
    for at in sorted(places, key=lambda at: -images[at].numel()):
        _, its_height, its_width = images[at].shape
        highest, widest = max(height, its_height), max(width, its_width)
        if group and highest * widest > MAX_PADDED * its_height * its_width:
            yield group
            group, highest, widest = [], its_height, its_width
        group.append(at)
        height, width = highest, widest
    if group:
        yield group


def _resized(images: Sequence[torch.Tensor], config: WorkerConfig) -> torch.Tensor:
    """uint8 [N, C, h, w]."""
    canvas = height_and_width(config.image_crop)
    assert canvas is not None
    device, num_channels = images[0].device, images[0].shape[0]
    highest, widest = (max(image.shape[axis] for image in images) for axis in (1, 2))
    padded = torch.empty((len(images), num_channels, highest, widest), dtype=torch.uint8, device=device)
    for place, image in zip(padded, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    sizes = [fit.size_resized(image, config) for image in images]
    down, across = (
        _weights(
            [image.shape[1 + axis] for image in images],
            [size[axis] for size in sizes],
            canvas[axis],
            padded.shape[2 + axis],
            device,
        )
        for axis in (0, 1)
    )
    narrow = padded.float().flatten(1, 2) @ across.transpose(1, 2)  # [N, C * highest, w]
    result = down.unsqueeze(1) @ narrow.view(len(images), num_channels, highest, canvas[1])
    return result.round_().clamp_(0, 255).to(torch.uint8)


def _weights(
    sizes: Sequence[int], resized: Sequence[int], num_kept: int, padded: int, device: torch.device
) -> torch.Tensor:
    """float32 [N, num_kept, padded]: of what each kept place of the resized axis is the sum.

    As torch's antialiased bilinear filter has it: a triangle around the place's centre, as wide as the axis shrinks.
    """
    told = [
        (size, size / out, max(1.0, size / out), round((out - num_kept) / 2))
        for size, out in zip(sizes, resized, strict=True)
    ]
    size, scale, reach, start = torch.tensor(told, dtype=torch.float32, device=device).unbind(1)
    places = torch.arange(num_kept, dtype=torch.float32, device=device) + 0.5
    centres = (start[:, None] + places) * scale[:, None]  # [N, num_kept]
    pixels = torch.arange(padded, dtype=torch.float32, device=device)
    weights = 1 - (pixels + 0.5 - centres[..., None]).abs_() / reach[:, None, None]
    weights = weights.clamp_(min=0).mul_(pixels < size[:, None, None])
    return weights.div_(weights.sum(-1, keepdim=True))

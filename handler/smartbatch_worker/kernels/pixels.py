"""uint8 images to normalised float32: on the CPU in one pass of C (pixels.c), where torch needs three; or on a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch

from smartbatch_worker.kernels import native
from smartbatch_worker.kernels.arguments import Arguments, Functions, declare, numbers, pointers


class Normalise(Arguments):
    _fields_ = pointers("out", "image", "scale", "offset") + numbers("num_pixels", "num_channels", "are_planes")


FUNCTIONS: Functions = {"normalise_image": (Normalise, None)}
_library: ctypes.CDLL | None = None


def scale_and_offset(mean: Sequence[float], std: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [C] each: (x / 255 - mean) / std is x * scale + offset."""
    return torch.tensor([1 / (255 * s) for s in std]), torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])


class DeviceNormaliser:
    """uint8 [..., C, H, W] on a device to float32 there, channels last.

    Args:
        mean, std: of pixels from 0 to 1, one a channel.
        device: where the pixels are.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self._scale, self._offset = (factors.view(-1, 1, 1).to(device) for factors in scale_and_offset(mean, std))

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise one image or a batch."""
        layout = torch.channels_last if pixels.ndim == 4 else torch.contiguous_format
        return torch.addcmul(self._offset, pixels.to(torch.float32, memory_format=layout), self._scale)


def prepare(cache_dir: Path) -> None:
    """Compile and load the C code, once a process. Without a compiler `normalise` does nothing.

    Args:
        cache_dir: where what the C compiler makes is kept.
    """
    global _library
    if _library is None and (library := native.build_if_possible("pixels", cache_dir)) is not None:
        _library = declare(library, FUNCTIONS)


def normalise(image: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, out: torch.Tensor) -> bool:
    """out = image * scale + offset per channel.

    Args:
        image: uint8 [C, H, W].
        scale, offset: float32 [C], contiguous.
        out: float32 [C, H, W] whose memory is channels last, and not that of `image`.

    Returns:
        False where it was not done: no compiler, or `image` lies in memory neither as planes nor as pixels.
    """
    are_planes = image.is_contiguous()
    if _library is None or not (are_planes or image.permute(1, 2, 0).is_contiguous()):
        return False
    num_channels, height, width = image.shape
    if out.shape != image.shape or not out.permute(1, 2, 0).is_contiguous() or scale.numel() != num_channels:
        return False
    _library.normalise_image(
        Normalise(
            out=out.data_ptr(),
            image=image.data_ptr(),
            scale=scale.data_ptr(),
            offset=offset.data_ptr(),
            num_pixels=height * width,
            num_channels=num_channels,
            are_planes=are_planes,
        )
    )
    return True

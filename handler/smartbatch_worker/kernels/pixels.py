"""uint8 images to normalised float32 in one pass of C (pixels.c), where torch needs three."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from smartbatch_worker.kernels import native

_library: ctypes.CDLL | None = None


def prepare(cache_dir: Path) -> None:
    """Compile and load the C code, once a process. Without a compiler `normalise` does nothing.

    Args:
        cache_dir: where what the C compiler makes is kept.
    """
    global _library
    if _library is None and (library := native.build_if_possible("pixels", cache_dir)) is not None:
        pointers = [ctypes.c_void_p] * 2
        library.normalise_image.argtypes = [*pointers, *[ctypes.c_int64] * 2, ctypes.c_int, *pointers]
        library.normalise_image.restype = None
        _library = library


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
        image.data_ptr(), out.data_ptr(), height * width, num_channels, are_planes, scale.data_ptr(), offset.data_ptr()
    )
    return True

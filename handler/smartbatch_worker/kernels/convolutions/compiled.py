"""winograd.c, compiled, and what its functions take: each struct is explained where C has it."""

from __future__ import annotations

import ctypes
from pathlib import Path

from smartbatch_worker.kernels import native
from smartbatch_worker.kernels.arguments import Arguments, Functions, declare, numbers, pointers

INCLUDES = (
    "direct.h",
    "first_layer.h",
    "parallel.h",
    "pooling.h",
    "product.h",
    "tile_transforms.h",
    "tiled.h",
    "tiles.h",
    "vector.h",
)
"""All that winograd.c is made of: a library is made again where one of them changes."""


class Winograd(Arguments):
    _fields_ = pointers("y", "x", "basis", "bias", "residual", "transforms", "scratch") + numbers(
        "images", "height", "width", "channels_in", "channels_out", "stride", "bf16", "relu", "threads"
    )


class Direct(Arguments):
    _fields_ = (
        pointers("y", "x", "weight", "bias", "residual", "lines")
        + numbers("images", "height", "width", "channels_in", "height_out", "width_out", "channels_out")
        + numbers("kernel", "stride", "bf16", "relu", "threads")
    )


class Strided(Arguments):
    _fields_ = (
        pointers("y", "x", "basis", "bias", "scratch")
        + numbers("images", "height", "width", "channels_in", "height_out", "width_out", "channels_out")
        + numbers("padding", "pools", "relu", "threads")
    )


class Pad(Arguments):
    _fields_ = pointers("to", "x") + numbers("images", "height", "width", "channels", "padding", "bf16")


FUNCTIONS: Functions = {
    "panel_width": (None, ctypes.c_int64),
    "num_lanes": (None, ctypes.c_int64),
    "has_bf16": (None, ctypes.c_int64),
    "winograd_scratch": (Winograd, ctypes.c_int64),
    "convolve_winograd": (Winograd, None),
    "strided_scratch": (Strided, ctypes.c_int64),
    "convolve_strided": (Strided, None),
    "convolve_direct": (Direct, None),
    "pad": (Pad, None),
}


def build(cache_dir: Path) -> ctypes.CDLL:
    """Compile winograd.c for this machine's processor, once per source and processor; a few seconds.

    Raises:
        NotCompiledError: there is no C compiler, or it failed, or there is nowhere to put what it makes.
    """
    return declare(native.build("winograd", cache_dir, INCLUDES, Path(__file__).parent), FUNCTIONS)

"""The matrices of Winograd's convolutions: kernels to points, and those of tiles winograd.c has no constants for."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import nn

# The points at which winograd.c multiplies, in its order; it has the images' part. Those of three taps have a product
# of 1 and magnify rounding less than the usual 1 and 2: in bf16 the answers come out twice as close to float32's.
_INFINITY = math.inf
POINTS_OF_TWO = (_INFINITY, 1 / 2, -1 / 2, 3 / 2, -3 / 2)
POINTS_OF_THREE = (_INFINITY, 0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)
POINTS_OF_FOUR = (_INFINITY, 0, 1 / 2, -1 / 2, 2, -2, -1)


def kernel_transform(points: Sequence[float], taps: int) -> torch.Tensor:
    """Winograd's G, float64 [points, taps]: a kernel's polynomial at each point, over its distances from the others."""
    finite = [point for point in points if point != _INFINITY]
    rows = []
    for point in points:
        if point == _INFINITY:
            rows.append([0.0] * (taps - 1) + [1.0])
        else:
            scale = math.prod(point - other for other in finite if other != point)
            rows.append([point**power / scale for power in range(taps)])
    return torch.tensor(rows, dtype=torch.float64)


def kernel_numbers(stride: int) -> torch.Tensor:
    """From a kernel's three taps to its numbers, float64 [6, 3] or, at stride 2, [9, 3]: taps 0 and 2, then tap 1."""
    if stride == 1:
        return kernel_transform(POINTS_OF_THREE, 3)
    numbers = torch.zeros((9, 3), dtype=torch.float64)
    numbers[:5, ::2] = kernel_transform(POINTS_OF_TWO, 2)
    numbers[5:, 1:2] = kernel_transform(POINTS_OF_TWO[1:], 1)
    return numbers


@functools.cache
def side_transforms(stride: int, *outputs: int) -> torch.Tensor:
    """Those of one direction that winograd.c wants: of full tiles, and of tiles with fewer outputs."""
    return torch.cat([matrix.flatten().float() for count in (4, *outputs) if count for matrix in _side(stride, count)])


def _side(stride: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A tile's transforms in one direction, float64: pixels to numbers, and the sums at points to outputs.

    A short one multiplies at the first few of a full tile's points, with the full tile's kernels. Those are divided by
    their distances from the points left out as well, which the pixels' transform makes good.
    """
    points = (POINTS_OF_THREE if stride == 1 else POINTS_OF_TWO)[1:]
    used, left_out = points[: outputs + 2 - stride], points[outputs + 2 - stride :]
    taps = 3 if stride == 1 else 2
    finite = torch.zeros((len(used), outputs + taps - 1), dtype=torch.float64)
    for row, point in zip(finite, used, strict=True):
        others = _polynomial([other for other in used if other != point])
        row[: len(others)] = math.prod(point - other for other in left_out) * others
    numbers = torch.cat((_polynomial(used)[None], finite))
    if stride == 2:  # even pixels in every second column, and odd ones, which have no number at infinity, between
        even, numbers = numbers, torch.zeros((2 * outputs + 1, 2 * outputs + 1), dtype=torch.float64)
        numbers[: outputs + 1, ::2] = even
        numbers[outputs + 1 :, 1::2] = finite[:, :outputs]
    sums = torch.tensor([[0.0, *(point**power for point in used)] for power in range(outputs)], dtype=torch.float64)
    sums[-1, 0] = 1
    return numbers, sums


def _polynomial(roots: Sequence[float]) -> torch.Tensor:
    """Coefficients of the product of x - root, of x to the power of zero first."""
    coefficients = torch.ones(1, dtype=torch.float64)
    for root in roots:
        coefficients = nn.functional.pad(coefficients, (1, 0)) - root * nn.functional.pad(coefficients, (0, 1))
    return coefficients

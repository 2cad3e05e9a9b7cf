"""Convolutions of our own as modules of PyTorch's: they lay weights out, check what comes, and call winograd.c.

Each takes the place of an `nn.Conv2d` and of what follows it: a sum, a ReLU, a pooling. Which ones gain is for
`forward/compilers/winograd.py` to know.
"""

from __future__ import annotations

import ctypes
import itertools
import math

import torch
from torch import nn

from smartbatch_worker.kernels.convolutions.compiled import Direct, Pad, Strided, Winograd
from smartbatch_worker.kernels.convolutions.transforms import (
    POINTS_OF_FOUR,
    kernel_numbers,
    kernel_transform,
    side_transforms,
)

_COLUMNS = 4096
"""Of a matrix that are multiplied at a time: so many lie in a core's cache."""


class _Convolution(nn.Module):
    """What all kinds share: weights in panels, in the precision of the products, and a float32 bias."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, conv: nn.Conv2d, weight: torch.Tensor, relu: bool, library: ctypes.CDLL, bf16: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self.register_buffer("bias", bias.float().contiguous())
        self.channels, self.relu, self.bf16, self._library = conv.in_channels, relu, bf16, library
        (self.kernel, _), (self.stride, _) = conv.kernel_size, conv.stride
        self.padding = 1 if conv.padding == "same" else int(conv.padding[0])

    def _checked(self, x: torch.Tensor) -> tuple[torch.Tensor, int, int]:
        """Channels-last `x`, and the output's height and width; what a client sent must not lead the C code astray."""
        if x.dim() != 4 or x.shape[1] != self.channels or x.dtype != torch.float32:
            raise RuntimeError(
                f"expected input [N, {self.channels}, H, W] of float32, got {list(x.shape)} of {x.dtype}"
            )
        height, width = ((size + 2 * self.padding - self.kernel) // self.stride + 1 for size in x.shape[2:])
        if height < 1 or width < 1:
            least = max(1, self.kernel - 2 * self.padding)
            raise RuntimeError(f"expected images of at least {least}x{least}, got {list(x.shape)}")
        return x.contiguous(memory_format=torch.channels_last), height, width


class WinogradConv2d(_Convolution):
    """A 3x3, padding 1 convolution of stride 1 or 2 with bias, an optional residual and an optional ReLU.

    Input [N, C, H, W] float32, residual and output [N, K, Y, X], all channels-last.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool, library: ctypes.CDLL, bf16: bool) -> None:
        stride = conv.stride[0]
        basis = _basis(conv.weight.detach(), kernel_numbers(stride), library.panel_width(), bf16)
        if stride == 2:  # the numbers of taps 0 and 2, and of tap 1, at one point follow each other
            groups = [[0], *([point, point + 4] for point in range(1, 5))]
            panels = [
                basis[rows][:, columns].flatten(0, 1).transpose(0, 1).flatten()
                for rows, columns in itertools.product(groups, groups)
            ]
            basis = torch.cat(panels)
        super().__init__(conv, basis.flatten(), relu, library, bf16)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve, add, clip."""
        x, height, width = self._checked(x)
        n, c, h, w = x.shape
        k = self.bias.shape[0]
        y = torch.empty((n, k, height, width), memory_format=torch.channels_last)
        residual = _laid_out_as(y, residual)
        transforms = side_transforms(self.stride, height % 4, width % 4)
        arguments = Winograd(
            y=_at(y),
            x=_at(x),
            basis=_at(self.weight),
            bias=_at(self.bias),
            residual=_at(residual),
            transforms=_at(transforms),
            scratch=None,
            images=n,
            height=h,
            width=w,
            channels_in=c,
            channels_out=k,
            stride=self.stride,
            bf16=self.bf16,
            relu=self.relu,
            threads=torch.get_num_threads(),
        )
        scratch = torch.empty(self._library.winograd_scratch(arguments))
        arguments.scratch = _at(scratch)
        self._library.convolve_winograd(arguments)
        return y


class DirectConv2d(_Convolution):
    """A convolution with bias, an optional ReLU and an optional residual before it or 3x3, stride 2 pooling after it.

    Input [N, C, H, W] float32, residual and output [N, K, Y, X], all channels-last.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool, library: ctypes.CDLL, bf16: bool, pools: bool = False) -> None:
        self.pools = pools
        weight = conv.weight.detach().float().permute(2, 3, 1, 0).reshape(conv.kernel_size[0], -1, conv.out_channels)
        if bf16:  # pairs of numbers: an odd line gets a weight of zero more
            weight = nn.functional.pad(weight, (0, 0, 0, weight.shape[1] % 2))
        panels = _panels(weight.reshape(1, -1, conv.out_channels), library.panel_width(), bf16)
        super().__init__(conv, panels, relu, library, bf16)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve, add, clip, pool."""
        x, height, width = self._checked(x)
        x = self._padded(x)
        n, c, h, w = x.shape
        k = self.bias.shape[0]
        size = ((height + 1) // 2, (width + 1) // 2) if self.pools else (height, width)
        y = torch.empty((n, k, *size), memory_format=torch.channels_last)
        residual = _laid_out_as(y, residual)
        if self.kernel == self.stride == 1 and not self.pools:
            h, w, height, width = 1, h * w, 1, height * width  # pixels by themselves: one long line is the fastest
        threads = torch.get_num_threads()
        lines = torch.empty(threads * 3 * width * self._library.panel_width()) if self.pools else None
        self._library.convolve_direct(
            Direct(
                y=_at(y),
                x=_at(x),
                weight=_at(self.weight),
                bias=_at(self.bias),
                residual=_at(residual),
                lines=_at(lines),
                images=n,
                height=h,
                width=w,
                channels_in=c,
                height_out=height,
                width_out=width,
                channels_out=k,
                kernel=self.kernel,
                stride=self.stride,
                bf16=self.bf16,
                relu=self.relu,
                threads=threads,
            )
        )
        return y

    def _padded(self, x: torch.Tensor) -> torch.Tensor:
        """Zeros around every image, in the precision of the products."""
        if not self.bf16 and not self.padding:
            return x
        n, c, h, w = x.shape
        shape = (n, h + 2 * self.padding, w + 2 * self.padding, c)
        # One more number, since pairs may reach beyond the last.
        flat = torch.empty(math.prod(shape) + 1, dtype=torch.bfloat16 if self.bf16 else torch.float32)
        flat[-1] = 0
        self._library.pad(
            Pad(
                to=_at(flat),
                x=_at(x),
                images=n,
                height=h,
                width=w,
                channels=c,
                padding=self.padding,
                bf16=self.bf16,
            )
        )
        return flat[:-1].view(shape).permute(0, 3, 1, 2)


class StridedWinogradConv2d(_Convolution):
    """A 7x7, stride 2 convolution of a few channels with bias, an optional ReLU and an optional pooling to the largest.

    Input [N, C, H, W] float32, output [N, K, Y, X], both channels-last. The products are of float32 in any case:
    with so few channels, bf16 would save little.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool, library: ctypes.CDLL, bf16: bool, pools: bool = False) -> None:
        # Taps in pairs, even and odd, the last odd one zero: [K, C, 4, 2, 4, 2].
        weight = nn.functional.pad(conv.weight.detach().double(), (0, 1, 0, 1))
        weight = weight.reshape(*weight.shape[:2], 4, 2, 4, 2)
        g = kernel_transform(POINTS_OF_FOUR, 4)
        basis = torch.einsum("is,kcsatb,jt->ijabck", g, weight, g).reshape(49, -1, conv.out_channels)
        super().__init__(conv, _panels(basis.float(), library.panel_width(), False), relu, library, bf16=False)
        self.pools = pools

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve, clip, pool."""
        x, height, width = self._checked(x)
        n, c, h, w = x.shape
        k = self.bias.shape[0]
        size = ((height + 1) // 2, (width + 1) // 2) if self.pools else (height, width)
        y = torch.empty((n, k, *size), memory_format=torch.channels_last)
        arguments = Strided(
            y=_at(y),
            x=_at(x),
            basis=_at(self.weight),
            bias=_at(self.bias),
            scratch=None,
            images=n,
            height=h,
            width=w,
            channels_in=c,
            height_out=height,
            width_out=width,
            channels_out=k,
            padding=self.padding,
            pools=self.pools,
            relu=self.relu,
            threads=torch.get_num_threads(),
        )
        scratch = torch.empty(self._library.strided_scratch(arguments))
        arguments.scratch = _at(scratch)
        self._library.convolve_strided(arguments)
        return y


def _laid_out_as(y: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor | None:
    """What is to be added to channels-last `y`, broadcast to its shape and in its order."""
    return None if residual is None else residual.expand_as(y).contiguous(memory_format=torch.channels_last)


def _panels(basis: torch.Tensor, width: int, bf16: bool) -> torch.Tensor:
    """[P, C, K] as flat [P, K / width, C, width], K padded with zeros: the order in which the product reads it.

    In bf16 [P, K / width, C / 2, width, 2]: two input channels side by side.
    """
    pitch = -(-basis.shape[2] // width) * width
    padded = nn.functional.pad(basis, (0, pitch - basis.shape[2]))
    # Flat, since .to(memory_format=...) reorders whatever has four dimensions.
    panels = padded.reshape(*basis.shape[:2], pitch // width, width).transpose(1, 2)
    if not bf16:
        return panels.flatten()
    pairs = panels.reshape(*panels.shape[:2], -1, 2, width).transpose(3, 4)
    return pairs.to(torch.bfloat16).flatten()


def _basis(weight: torch.Tensor, g: torch.Tensor, width: int, bf16: bool) -> torch.Tensor:
    """[K, C, 3, 3] at all points, as `_panels` has one: [P, P, K / width, C, width]; in bf16 [..., C / 2, width, 2].

    The taps are laid out before they are multiplied: there are nine of them, and 36 or 81 products.
    """
    padded = nn.functional.pad(weight.flatten(2), (0, 0, 0, 0, 0, -len(weight) % width))
    taps = padded.reshape(-1, width, *padded.shape[1:]).permute(3, 0, 2, 1)
    if bf16:
        taps = taps.reshape(*taps.shape[:2], -1, 2, width).transpose(3, 4)
    flat = taps.double().flatten(1)
    points = torch.empty((len(g) ** 2, flat.shape[1]), dtype=torch.bfloat16 if bf16 else torch.float32)
    both = torch.kron(g, g)
    for some in range(0, flat.shape[1], _COLUMNS):
        points[:, some : some + _COLUMNS] = both @ flat[:, some : some + _COLUMNS]
    return points.reshape(len(g), len(g), *taps.shape[1:])


def _at(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()

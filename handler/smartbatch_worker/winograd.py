"""Fewer multiplications than a convolution needs: Winograd F(4x4, 3x3) for 3x3, stride 1 layers on the CPU.

A direct convolution at the processor's peak is the wall that every compiler runs into; Winograd's basis needs a quarter
of the products, which makes ResNets about twice as fast in float32. `accelerate` folds batch norms into
convolutions, lays weights out channels-last and swaps the convolutions that gain; everything else stays PyTorch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import operator
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse

from smartbatch_worker.processor import cpu_flags

BLOCK_BYTES = 1 << 20
"""Transformed tiles of one block, in and out: they should stay in the second and third cache."""

MAX_DIRECT_CHANNELS = 4
"""PyTorch's own convolution is made for input channels by the vector: with fewer, ours is faster by a third."""

# F(4x4, 3x3) at the points 0, 1, -1, 2, -2, infinity.
_G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


class WinogradUnavailableError(RuntimeError):
    """No C compiler here, or the model cannot be traced."""


def build(cache_dir: Path) -> ctypes.CDLL:
    """Compile winograd.c for this machine's processor, once per source and processor; about a second."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    source = Path(__file__).with_name("winograd.c")
    cpu = " ".join(sorted(cpu_flags()))
    key = hashlib.sha256(source.read_bytes() + cpu.encode()).hexdigest()[:16]
    library = cache_dir / f"winograd-{key}.so"
    if not library.exists():
        if compiler is None:
            raise WinogradUnavailableError("compile: winograd needs a C compiler (cc, gcc or clang) on PATH")
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir) as scratch:
            partial = Path(scratch) / "winograd.so"
            # Not -ffast-math: it would swallow NaN, and switch off subnormal numbers for the whole process.
            flags = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]
            command = [compiler, *flags, str(source), "-o", str(partial)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise WinogradUnavailableError(f"{compiler} failed on winograd.c: {done.stderr.strip()[:500]}")
            partial.replace(library)
    built = ctypes.CDLL(str(library))
    built.panel_width.restype = built.panel_rows.restype = ctypes.c_int64
    built.convolve_winograd.argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_int] + [ctypes.c_int64] * 7
    built.convolve_direct.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int] + [ctypes.c_int64] * 11
    return built


class WinogradConv2d(nn.Module):
    """A 3x3, stride 1, padding 1 convolution with bias, an optional residual and an optional ReLU.

    Input and residual are [N, C, H, W] float32, output [N, K, H, W], all channels-last.
    """

    basis: torch.Tensor
    bias: torch.Tensor

    def __init__(self, conv: nn.Conv2d, relu: bool, library: ctypes.CDLL) -> None:
        super().__init__()
        weight, g = conv.weight.detach().double(), torch.tensor(_G, dtype=torch.float64)
        basis = torch.einsum("ia,kcab,jb->ijck", g, weight, g).reshape(36, conv.in_channels, conv.out_channels).float()
        self.register_buffer("basis", _panels(basis, library.panel_width()))
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self.register_buffer("bias", bias.float().contiguous())
        self.channels, self.relu, self._library = conv.in_channels, relu, library

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve, add, clip."""
        x = _checked(x, self.channels)
        n, c, h, w = x.shape
        k = self.bias.shape[0]
        y = torch.empty((n, k, h, w), memory_format=torch.channels_last)
        if residual is not None:
            residual = residual.expand_as(y).contiguous(memory_format=torch.channels_last)
        tiles = n * ((h + 3) // 4) * ((w + 3) // 4)
        pitch = self.basis.numel() // (36 * c)
        block = self._block(tiles, c + pitch)

        def run(first: int, last: int) -> None:
            scratch = torch.empty(36 * block * (c + pitch))
            self._library.convolve_winograd(
                *map(_at, (x, y, self.basis, self.bias, residual, scratch)), self.relu, first, last, block, h, w, c, k
            )

        _in_parts(run, tiles, block)
        return y

    def _block(self, tiles: int, channels: int) -> int:
        """Tiles at a time: equal blocks that fit BLOCK_BYTES, of whole steps of the matrix product."""
        blocks = max(torch.get_num_threads(), round(tiles * 144 * channels / BLOCK_BYTES))
        step: int = self._library.panel_rows()
        return min(tiles, -(-tiles // blocks // step) * step)


class DirectConv2d(nn.Module):
    """A convolution of few input channels with bias and an optional ReLU: the first layer of an image network.

    Input [N, C, H, W] float32, output [N, K, Y, X], both channels-last.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, conv: nn.Conv2d, relu: bool, library: ctypes.CDLL) -> None:
        super().__init__()
        (self.kernel, _), (self.stride, _) = conv.kernel_size, conv.stride
        self.padding = int(conv.padding[0])
        weight = conv.weight.detach().permute(2, 3, 1, 0).reshape(1, -1, conv.out_channels)
        self.register_buffer("weight", _panels(weight, library.panel_width()))
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self.register_buffer("bias", bias.float().contiguous())
        self.channels, self.relu, self._library = conv.in_channels, relu, library

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve, clip."""
        x = _checked(nn.functional.pad(x, (self.padding,) * 4), self.channels)
        n, c, h, w = x.shape
        k = self.bias.shape[0]
        height, width = ((size - self.kernel) // self.stride + 1 for size in (h, w))
        y = torch.empty((n, k, height, width), memory_format=torch.channels_last)

        def run(first: int, last: int) -> None:
            self._library.convolve_direct(
                *map(_at, (x, y, self.weight, self.bias)), self.relu, first, last, n, h, w, c, height, width, k,
                self.kernel, self.stride
            )  # fmt: skip

        _in_parts(run, k, self._library.panel_width())
        return y


def _checked(x: torch.Tensor, channels: int) -> torch.Tensor:
    """Channels-last `x`; what a client sent must not make the C code read beyond it."""
    if x.dim() != 4 or x.shape[1] != channels or x.dtype != torch.float32:
        raise RuntimeError(f"expected input [N, {channels}, H, W] of float32, got {list(x.shape)} of {x.dtype}")
    return x.contiguous(memory_format=torch.channels_last)


def _in_parts(run: Callable[[int, int], None], count: int, step: int) -> None:
    """`run(first, last)` over 0..count in as many threads as torch may use, cut at multiples of `step`."""
    steps = -(-count // step)
    parts = min(torch.get_num_threads(), steps)
    cuts = [min(count, steps * part // parts * step) for part in range(parts + 1)]
    # The C code runs without the interpreter's lock; the calling thread takes the first part.
    others = [_helpers().submit(run, first, last) for first, last in itertools.pairwise(cuts[1:])]
    run(0, cuts[1])
    for other in others:
        other.result()


@functools.cache
def _helpers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "smartbatch-winograd")


def _panels(basis: torch.Tensor, width: int) -> torch.Tensor:
    """[36, C, K] as flat [36, K / width, C, width], K padded with zeros: the order in which the product reads it."""
    pitch = -(-basis.shape[2] // width) * width
    padded = nn.functional.pad(basis, (0, pitch - basis.shape[2]))
    # Flat, since .to(memory_format=...) reorders whatever has four dimensions.
    return padded.reshape(*basis.shape[:2], pitch // width, width).transpose(1, 2).flatten()


def _at(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def accelerate(model: nn.Module, cache_dir: Path) -> nn.Module:
    """An equivalent of `model` for inference in float32 on this CPU, given and giving eval mode.

    Raises:
        WinogradUnavailableError: there is no compiler, or the model's forward cannot be traced.
    """
    library = build(cache_dir)
    try:
        traced = fuse(model)  # works on a copy
        assert isinstance(traced, fx.GraphModule)
    except Exception as error:
        raise WinogradUnavailableError(f"{type(model).__name__} cannot be traced: {error}") from error
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op != "call_module":
            continue
        kind = _kind(modules[node.target], library.panel_width())
        if kind is None:
            continue
        inputs, last, relu = [node.args[0]], node, False
        add = _only_user(node)
        if kind is WinogradConv2d and add is not None and _is_sum(add):
            other = [a for a in add.args if a is not node]
            if len(other) == 1 and isinstance(other[0], fx.Node) and not add.kwargs:
                inputs, last = [*inputs, other[0]], add
        after = _only_user(last)
        if after is not None and _is_relu(after, modules):
            last, relu = after, True
        name = node.target.replace(".", "_") + "_fast"
        traced.add_submodule(name, kind(modules[node.target], relu, library))
        with traced.graph.inserting_after(last):
            new = traced.graph.call_module(name, tuple(inputs))
        last.replace_all_uses_with(new)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.to(memory_format=torch.channels_last)


def _kind(module: nn.Module, panel_width: int) -> type[WinogradConv2d | DirectConv2d] | None:
    """What runs this layer faster than PyTorch."""
    if not isinstance(module, nn.Conv2d) or module.padding_mode != "zeros" or module.groups != 1:
        return None
    if module.dilation != (1, 1) or module.weight.dtype != torch.float32:
        return None
    kernel, stride, padding = module.kernel_size, module.stride, module.padding
    is_three_by_three = kernel == (3, 3) and stride == (1, 1) and padding in ((1, 1), "same")
    if is_three_by_three and min(module.in_channels, module.out_channels) >= 32:
        return WinogradConv2d
    if module.in_channels > MAX_DIRECT_CHANNELS or module.out_channels % panel_width or isinstance(padding, str):
        return None
    is_square = len(set(kernel)) == len(set(stride)) == len(set(padding)) == 1
    return DirectConv2d if is_square else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_sum(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add)


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.ReLU)
    return node.op == "call_function" and node.target in (torch.relu, nn.functional.relu)

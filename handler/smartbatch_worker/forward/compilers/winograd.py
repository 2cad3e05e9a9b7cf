"""Fewer multiplications than a convolution needs: Winograd for 3x3 layers and a 7x7, stride 2 first layer.

A direct convolution at the processor's peak is the wall that every compiler runs into; Winograd's basis needs a quarter
of the products, at stride 2 more than half, which makes ResNets about twice as fast. `accelerate` folds batch norms
into convolutions, lays weights out channels-last and swaps the convolutions that gain; everything else stays PyTorch.

With `bf16` the products are of bf16, where the processor has them: twice as many at a time. Sums, images between the
layers and all else stay float32, so the answers are closer to float32's than those of a model converted to bf16.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import math
import operator
from pathlib import Path

import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse

from smartbatch_worker.contract.machine import cpu_flags
from smartbatch_worker.forward.compilers.compiler import Built, Compiler, CompilerUnavailableError, Task
from smartbatch_worker.kernels import native
from smartbatch_worker.kernels.convolutions import compiled, layers

MAX_STRIDED_CHANNELS = 4
"""Of a first layer's input: the transform of more would cost what the multiplications save."""

MAX_BASIS_BYTES = 1 << 24
"""Of a stride 2 layer's weights in Winograd's basis, which are nine times as many: reading more takes too long."""


class WinogradUnavailableError(CompilerUnavailableError):
    """No C compiler here, or the model cannot be traced."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "convolutions stay PyTorch's")


def why_not(task: Task) -> str | None:
    """It swaps layers of known sources, on the processor."""
    if task.device.type != "cpu" or task.precision == "fp16" or not task.is_ours:
        return "compile: winograd needs a torchvision classifier in fp32 or bf16 on the CPU"
    return None


def build(task: Task) -> Built:
    """The folded module with its convolutions swapped."""
    module = accelerate(task.folded, task.cache_dir, task.precision == "bf16")
    return Built(module, modules=(module,))


def ways(task: Task, has_bf16: bool) -> tuple[str, ...]:
    """fp32 too where bf16 is wanted: it may be the faster one."""
    if not task.is_ours:
        return ()
    return ("fp32", "bf16") if has_bf16 and has_bf16_products() else ("fp32",)


@functools.cache
def has_bf16_products() -> bool:
    """Whether this processor multiplies bf16 by itself, in a way that `accelerate` uses."""
    return {"avx512f", "avx512_bf16"} <= cpu_flags()


def accelerate(model: nn.Module, cache_dir: Path, bf16: bool = False) -> nn.Module:
    """An equivalent of `model` for inference on this CPU, given and giving eval mode, float32 in and out.

    Args:
        model: in float32; what is traced already has its batch norms folded.
        cache_dir: where what the C compiler makes is kept.
        bf16: multiply in bf16; only where `has_bf16()`.

    Raises:
        WinogradUnavailableError: there is no compiler, it knows no bf16, or the model's forward cannot be traced.
    """
    try:
        library = compiled.build(cache_dir)
    except native.NotCompiledError as error:
        raise WinogradUnavailableError(f"compile: winograd: {error}") from error
    if bf16 and not library.has_bf16():
        raise WinogradUnavailableError("compile: winograd in bf16 needs avx512_bf16 and a C compiler that knows it")
    try:
        folded = model if isinstance(model, fx.GraphModule) else fuse(model)
        assert isinstance(folded, fx.GraphModule)
        traced = fx.GraphModule(folded, copy.deepcopy(folded.graph))  # shares the modules that stay
    except Exception as error:
        raise WinogradUnavailableError(f"{type(model).__name__} cannot be traced: {error}") from error
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op != "call_module":
            continue
        conv = modules[node.target]
        kind = _kind(conv, library)
        if kind is None:
            continue
        inputs, last, options = [node.args[0]], node, {"relu": False}
        add = _only_user(node)
        if kind is not layers.StridedWinogradConv2d and add is not None and _is_sum(add):
            other = [a for a in add.args if a is not node]
            if len(other) == 1 and isinstance(other[0], fx.Node) and not add.kwargs:
                inputs, last = [*inputs, other[0]], add
        after = _only_user(last)
        if after is not None and _is_relu(after, modules):
            last, options["relu"] = after, True
        after = _only_user(last)
        is_alone = kind is not layers.WinogradConv2d and len(inputs) == 1
        if is_alone and after is not None and _is_pooling(after, modules):
            last, options["pools"] = after, True
        name = node.target.replace(".", "_") + "_fast"
        traced.add_submodule(name, kind(conv, library=library, bf16=bf16, **options))
        with traced.graph.inserting_after(last):
            new = traced.graph.call_module(name, tuple(inputs))
        last.replace_all_uses_with(new)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.to(memory_format=torch.channels_last)


def _kind(
    module: nn.Module, library: ctypes.CDLL
) -> type[layers.WinogradConv2d | layers.StridedWinogradConv2d | layers.DirectConv2d] | None:
    """What runs this layer faster than PyTorch."""
    if not isinstance(module, nn.Conv2d) or module.padding_mode != "zeros" or module.groups != 1:
        return None
    if module.dilation != (1, 1) or module.weight.dtype != torch.float32:
        return None
    kernel, stride, padding = module.kernel_size, module.stride, module.padding
    channels, lanes = (module.in_channels, module.out_channels), library.num_lanes()
    is_three_by_three = kernel == (3, 3) and padding in ((1, 1), "same")
    is_tiled = stride == (1, 1) or (stride == (2, 2) and 4 * 81 * math.prod(channels) <= MAX_BASIS_BYTES)
    if is_three_by_three and is_tiled and min(channels) >= 32 and all(count % lanes == 0 for count in channels):
        return layers.WinogradConv2d
    if isinstance(padding, str) or module.out_channels % library.panel_width():
        return None
    if not len(set(kernel)) == len(set(stride)) == len(set(padding)) == 1:
        return None
    is_first = kernel == (7, 7) and stride == (2, 2) and module.in_channels <= MAX_STRIDED_CHANNELS
    return layers.StridedWinogradConv2d if is_first else layers.DirectConv2d


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_sum(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add)


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.ReLU)
    return node.op == "call_function" and node.target in (torch.relu, nn.functional.relu)


def _is_pooling(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """To the largest of 3x3, at stride 2 and padding 1: what follows an image network's first layer."""
    pool = modules[str(node.target)] if node.op == "call_module" else None
    if not isinstance(pool, nn.MaxPool2d) or pool.ceil_mode or pool.return_indices:
        return False
    sizes = ((pool.kernel_size, 3), (pool.stride, 2), (pool.padding, 1), (pool.dilation, 1))
    return all(value in (wanted, (wanted, wanted)) for value, wanted in sizes)


COMPILER = Compiler(name="winograd", build=build, why_not=why_not, ways=ways)

"""From a module to the function that runs one batch: folded, compiled, or as it is."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from smartbatch_worker import calibrate, winograd
from smartbatch_worker.config import WorkerConfig
from smartbatch_worker.cuda_graphs import GraphedForward
from smartbatch_worker.processor import cpu_flags

logger = logging.getLogger(__name__)

Forward = Callable[[torch.Tensor], Any]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_INSTRUCTIONS = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "fp16": {"avx512_fp16", "amx_fp16", "fphp"}}
"""Of CPUs that compute in a precision, as Linux names them; elsewhere it is emulated, many times slower than fp32."""

FP32_TOLERANCE = 1e-4
"""Of the largest answer: how far one way of computing in fp32 may be from another."""
BF16_TOLERANCE = 2.0
"""Times the error of the model converted to bf16, root mean square: what another way of computing in bf16 may have."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A model's forward, and how it came to be."""

    forward: Forward
    """From float32 [N, ...] on the device to what the model gives."""
    name: str
    """What made it: off, winograd, inductor, openvino or cuda_graphs; never auto."""
    precision: str
    """What it computes in: the configured precision, or fp32 where that is faster on this CPU."""


def compile_forward(
    module: torch.nn.Module,
    config: WorkerConfig,
    device: torch.device,
    shape: tuple[int, ...] | None,
    model_dir: Path,
    largest: int = calibrate.MAX_LARGEST,
) -> Compiled:
    """Make a module a function of one batch.

    Args:
        module: in eval mode, in float32 and on its device; it may be converted in place.
        config: `compile` and `precision` decide; torchvision's own architectures are folded in any case.
        device: where it runs.
        shape: of one item, where known: compilation then happens here and not at the first request.
        model_dir: where what was built and measured is kept for the next worker.
        largest: most items in one batch; CUDA graphs are recorded up to it.

    Raises:
        ValueError: the compiler is not installed or does not take this kind of model.
        RuntimeError: it took the model and failed.
    """
    precision, is_ours = config.precision, is_torchvision(config)
    can_choose = config.compile == "auto" and device.type == "cpu" and is_ours and precision != "fp16"
    if can_choose and shape is not None:
        return _fastest(module, precision, shape, model_dir)
    _warn_if_emulated(precision, device)
    if config.compile == "winograd":
        if device.type != "cpu" or precision == "fp16" or not is_ours:
            raise ValueError("compile: winograd needs a torchvision model in fp32 or bf16 on the CPU")
        return Compiled(winograd.accelerate(module, model_dir, bf16=precision == "bf16"), "winograd", precision)
    folded = fold_batch_norms(module) if is_ours else module
    if config.compile == "openvino":
        return Compiled(_openvino(folded, config, shape, device), "openvino", precision)
    forward = _in_precision(folded, precision)
    if config.compile == "cuda_graphs":
        if shape is None or device.type != "cuda":
            raise ValueError(f"compile: cuda_graphs needs a GPU and a known input_shape; this is {device}")
        return Compiled(GraphedForward(forward, shape, largest, device), "cuda_graphs", precision)
    if config.compile == "inductor":
        return Compiled(_inductor(forward, shape, device), "inductor", precision)
    return Compiled(forward, "off", precision)


def _fastest(module: torch.nn.Module, precision: str, shape: tuple[int, ...], model_dir: Path) -> Compiled:
    """The fastest way this CPU has of computing in `precision` or better, measured.

    bf16 is computed in fp32 where the CPU has no bf16 instructions, or where fp32 is faster.
    """
    has_bf16 = precision == "bf16" and not is_emulated(precision)
    if precision == "bf16" and not has_bf16:
        logger.info("this CPU has no bf16 instructions: computing in fp32, which is faster here and more precise")
    folded = fold_batch_norms(module)
    example = torch.randn((4, *shape), generator=torch.Generator().manual_seed(0))
    expected = folded(example)
    ways: dict[tuple[str, str], Forward] = {("off", "fp32"): folded}
    if has_bf16:
        ways["off", "bf16"] = _in_precision(copy.deepcopy(folded), "bf16")
    if isinstance(expected, torch.Tensor):
        for bf16 in (False, True) if has_bf16 and winograd.has_bf16() else (False,):
            try:
                ways["winograd", "bf16" if bf16 else "fp32"] = winograd.accelerate(module, model_dir, bf16)
            except winograd.WinogradUnavailableError as error:
                logger.info("convolutions stay PyTorch's: %s", error)
        _drop_the_imprecise(ways, example, expected)

    def measure() -> dict[str, float]:
        times = dict.fromkeys(map(" ".join, ways), math.inf)
        for _ in range(3):
            for way, forward in ways.items():
                seconds = calibrate.time_forward(forward, example, torch.device("cpu"))
                times[" ".join(way)] = min(times[" ".join(way)], seconds)
        return times

    times = calibrate.remember(model_dir, f"compile {precision} shape={shape}", measure)
    logger.info("forward of 4 items: %s", ", ".join(f"{way} {1000 * s:.1f} ms" for way, s in times.items()))
    best = min(ways, key=lambda way: times.get(" ".join(way), math.inf))
    return Compiled(ways[best], *best)


def _drop_the_imprecise(ways: dict[tuple[str, str], Forward], example: torch.Tensor, expected: torch.Tensor) -> None:
    """Remove the ways that fail, or answer other than plain PyTorch in their precision does."""
    plain_error = _rms(ways["off", "bf16"](example) - expected) if ("off", "bf16") in ways else 0.0
    for way in [way for way in ways if way[0] != "off"]:
        try:
            difference = ways[way](example) - expected
        except RuntimeError as error:
            logger.warning("%s in %s fails: not used (%s)", *way, error)
            del ways[way]
            continue
        is_right = (
            _rms(difference) <= BF16_TOLERANCE * plain_error
            if way[1] == "bf16"
            else float(difference.abs().max()) <= FP32_TOLERANCE * float(expected.abs().max())
        )
        if not is_right:
            logger.warning("%s in %s differs by %g: not used", *way, float(difference.abs().max()))
            del ways[way]


def _rms(tensor: torch.Tensor) -> float:
    return float(tensor.float().square().mean().sqrt())


def _in_precision(module: torch.nn.Module, precision: str) -> Forward:
    """The module, converted, as a function of float32."""
    dtype = _DTYPES[precision]
    module = module.to(dtype=dtype)
    return module if precision == "fp32" else lambda batch: module(batch.to(dtype=dtype))


def is_torchvision(config: WorkerConfig) -> bool:
    """Whether the model is a torchvision architecture, whose source is known, and not a file of the user's."""
    return not config.model.endswith((".py", ".pt", ".pt2"))


def fold_batch_norms(module: torch.nn.Module) -> torch.nn.Module:
    """Fold every batch norm into the convolution before it: the same function, up to rounding, in fewer passes.

    On a CPU this and channels_last bring eager PyTorch within a few percent of a compiler, at no build time. Tracing
    runs a module's Python once and keeps only its tensor operations, so it is safe for known sources alone.
    """
    from torch.fx.experimental.optimization import fuse
    from torch.fx.proxy import TraceError

    try:
        return fuse(module)
    except (TraceError, NotImplementedError, TypeError, RuntimeError) as error:
        logger.info("batch norms are not folded: %s", error)
        return module


def is_emulated(precision: str) -> bool:
    """Whether this CPU has a precision in name only; where nobody says, it is believed to have it."""
    flags = cpu_flags()
    return precision != "fp32" and bool(flags) and not flags & _INSTRUCTIONS[precision]


def _warn_if_emulated(precision: str, device: torch.device) -> None:
    if device.type == "cpu" and is_emulated(precision):
        text = "this CPU has no %s instructions: precision %s is emulated and slower than fp32"
        logger.warning(text, precision, precision)


def _inductor(forward: Forward, shape: tuple[int, ...] | None, device: torch.device) -> Forward:
    import torch._inductor.config as inductor_config

    inductor_config.freezing = True
    function: Forward = torch.compile(forward, dynamic=True)
    if shape is not None:
        for size in (2, 1):  # two: the general batch; one is always specialised
            example = torch.zeros((size, *shape), device=device)
            function(example.contiguous(memory_format=torch.channels_last) if len(shape) == 3 else example)
    return function


def _openvino(
    module: torch.nn.Module, config: WorkerConfig, shape: tuple[int, ...] | None, device: torch.device
) -> Forward:
    try:
        import openvino
    except ImportError:
        raise ValueError("compile: openvino needs the package openvino; pip install openvino") from None
    if shape is None or device.type != "cpu":
        raise ValueError("compile: openvino needs a CPU and an input_shape it can run once")
    free_shape = [-1, *(-1 if d is None else d for d in config.input_shape or shape)]
    model = openvino.convert_model(
        module.float(), example_input=torch.zeros((2, *shape)), input=openvino.PartialShape(free_shape)
    )
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if config.precision == "bf16" else "f32",
    }
    compiled = openvino.Core().compile_model(model, "CPU", hints)

    def forward(batch: torch.Tensor) -> Any:
        outputs = compiled(batch.float().contiguous().numpy())
        tensors = tuple(torch.from_numpy(outputs[index].copy()) for index in range(len(compiled.outputs)))
        return tensors[0] if len(tensors) == 1 else tensors

    return forward

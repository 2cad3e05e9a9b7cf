"""From a module to the function that runs one batch: folded, compiled, or as it is."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from smartbatch_worker import calibrate, winograd
from smartbatch_worker.config import WorkerConfig
from smartbatch_worker.processor import cpu_flags

logger = logging.getLogger(__name__)

Forward = Callable[[torch.Tensor], Any]


def compile_forward(
    module: torch.nn.Module,
    config: WorkerConfig,
    device: torch.device,
    shape: tuple[int, ...] | None,
    model_dir: Path,
) -> tuple[Forward, str]:
    """Make a module a function of one batch.

    Args:
        module: in eval mode, on its device and in its precision.
        config: `compile` decides; torchvision's own architectures are folded in any case.
        device: where it runs.
        shape: of one item, where known: compilation then happens here and not at the first request.
        model_dir: where what was built and measured is kept for the next worker.

    Returns:
        The function, and the name of what made it (never "auto").

    Raises:
        ValueError: the compiler is not installed or does not take this kind of model.
    """
    folded = fold_batch_norms(module) if is_torchvision(config) else module
    if config.compile == "inductor":
        return _inductor(folded, shape, device), "inductor"
    if config.compile == "openvino":
        return _openvino(folded, config, shape, device), "openvino"
    if config.compile == "winograd":
        if device.type != "cpu" or config.precision != "fp32" or not is_torchvision(config):
            raise ValueError("compile: winograd needs a torchvision model in fp32 on the CPU")
        return winograd.accelerate(module, model_dir), "winograd"
    if config.compile == "auto" and device.type == "cpu" and config.precision == "fp32" and is_torchvision(config):
        return _faster(module, folded, shape, model_dir)
    return folded, "off"


def _faster(
    module: torch.nn.Module, folded: torch.nn.Module, shape: tuple[int, ...] | None, model_dir: Path
) -> tuple[Forward, str]:
    """Winograd's convolutions where they can be built, answer the same, and are faster here."""
    if shape is None:
        return folded, "off"
    try:
        accelerated = winograd.accelerate(module, model_dir)
    except winograd.WinogradUnavailableError as error:
        logger.info("convolutions stay PyTorch's: %s", error)
        return folded, "off"
    example = torch.randn((4, *shape), generator=torch.Generator().manual_seed(0))
    expected, actual = folded(example), accelerated(example)
    if not isinstance(expected, torch.Tensor):
        return folded, "off"
    if not torch.allclose(expected, actual, rtol=1e-4, atol=1e-4 * float(expected.abs().max())):
        logger.warning("winograd's answers differ by %g: not used", float((expected - actual).abs().max()))
        return folded, "off"
    device = torch.device("cpu")

    def measure() -> dict[str, float]:
        times = {"off": math.inf, "winograd": math.inf}
        for _ in range(3):
            for name, function in (("off", folded), ("winograd", accelerated)):
                times[name] = min(times[name], calibrate.time_forward(function, example, device))
        return times

    times = calibrate.remember(model_dir, f"compile shape={shape}", measure)
    best = min(times, key=times.__getitem__)
    logger.info("forward of 4 items: %s", ", ".join(f"{name} {1000 * s:.1f} ms" for name, s in times.items()))
    return (accelerated if best == "winograd" else folded), best


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


def warn_if_emulated(config: WorkerConfig, device: torch.device) -> None:
    """Say so where a precision exists on this CPU in name only: it would run several times slower than fp32."""
    if device.type != "cpu" or config.precision == "fp32":
        return
    flags = cpu_flags()
    needed = {"bf16": ("avx512_bf16", "amx_bf16", "bf16"), "fp16": ("avx512_fp16", "amx_fp16", "fphp")}
    if flags and not flags & set(needed[config.precision]):
        logger.warning(
            "this CPU has no %s instructions: precision %s is emulated and slower than fp32",
            config.precision,
            config.precision,
        )


def _inductor(module: torch.nn.Module, shape: tuple[int, ...] | None, device: torch.device) -> Forward:
    import torch._inductor.config as inductor_config

    inductor_config.freezing = True
    function: Forward = torch.compile(module, dynamic=True)
    if shape is not None:
        parameter = next(module.parameters(), torch.empty(0))
        for size in (2, 1):  # two: the general batch; one is always specialised
            example = torch.zeros((size, *shape), dtype=parameter.dtype, device=device)
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

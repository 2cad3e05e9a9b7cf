"""From a module to the function that runs one batch: folded, compiled, or as it is."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.machine import cpu_flags
from smartbatch_worker.forward import calibrate
from smartbatch_worker.forward.compilers import winograd
from smartbatch_worker.forward.compilers.cuda_graphs import GraphedForward

logger = logging.getLogger(__name__)

Forward = Callable[[torch.Tensor], Any]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_INSTRUCTIONS = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "fp16": {"avx512_fp16", "amx_fp16", "fphp"}}
"""Of CPUs that compute in a precision, as Linux names them; elsewhere it is emulated, many times slower than fp32."""

FP32_TOLERANCE = 1e-4
"""Of the largest answer: how far one way of computing in fp32 may be from another."""
BF16_TOLERANCE = 2.0
"""Times the error of the model converted to bf16, root mean square: what another way of computing in bf16 may have."""

ALIKE = 0.1
"""Of the answers, root mean square: how far two ways may be apart in one precision, of which bf16 takes a tenth."""

NUM_ROUNDS = 3
HOPELESS = 4.0
"""Times the fastest: a way that takes longer is not timed again. Less may be a worker that was loading meanwhile."""


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
        return _fastest(module, config, shape, device, model_dir)
    _warn_if_emulated(precision, device)
    if config.compile == "winograd":
        if device.type != "cpu" or precision == "fp16" or not is_ours:
            raise ValueError("compile: winograd needs a torchvision model in fp32 or bf16 on the CPU")
        return Compiled(winograd.accelerate(module, model_dir, bf16=precision == "bf16"), "winograd", precision)
    folded = fold_batch_norms(module) if is_ours else module
    if config.compile == "openvino":
        plain = _in_precision(copy.deepcopy(folded), precision)
        compiled = _openvino(folded, plain, precision, shape, device)
        _check_alike(compiled, plain, shape or ())
        return Compiled(compiled, "openvino", precision)
    forward = _in_precision(folded, precision)
    if config.compile == "cuda_graphs":
        if shape is None or device.type != "cuda":
            raise ValueError(f"compile: cuda_graphs needs a GPU and a known input_shape; this is {device}")
        return Compiled(GraphedForward(forward, shape, largest, device), "cuda_graphs", precision)
    if config.compile == "inductor":
        return Compiled(_inductor(forward, shape, device), "inductor", precision)
    return Compiled(forward, "off", precision)


def _fastest(
    module: torch.nn.Module, config: WorkerConfig, shape: tuple[int, ...], device: torch.device, model_dir: Path
) -> Compiled:
    """The fastest way this CPU has of computing in the configured precision or better, measured once.

    bf16 is computed in fp32 where the CPU has no bf16 instructions, or where fp32 is faster.
    """
    ways = _Ways(module, config, shape, device, model_dir)
    example = ways.example

    built: dict[str, Forward] = {}

    def measure() -> dict[str, float]:
        built.update({way: forward for way in ways.names if (forward := ways.build(way)) is not None})
        times = dict.fromkeys(built, math.inf)
        for _ in range(NUM_ROUNDS):
            limit = HOPELESS * min(times.values())
            for way in [way for way in built if times[way] <= limit]:
                times[way] = min(times[way], calibrate.time_forward(built[way], example, device))
        return times

    is_name = frozenset(ways.names).__contains__
    times = calibrate.remember(
        model_dir, f"compile {config.model} {' or '.join(ways.names)} shape={shape}", measure, is_name
    )
    told = ", ".join(f"{way} {1000 * seconds:.1f} ms" for way, seconds in times.items())
    logger.info("forward of %d items: %s", len(example), told)
    for way in sorted(times, key=times.__getitem__):
        forward = built.get(way) or ways.build(way)  # what was the fastest once may fail today
        if forward is not None:
            return Compiled(forward, *way.split())
    raise RuntimeError("plain PyTorch is among the ways, and always there")


class _Ways:
    """The ways of computing a model on this CPU, each built when it is asked for, and checked against plain PyTorch.

    A way's name is its compiler and its precision: "winograd fp32".
    """

    def __init__(
        self,
        module: torch.nn.Module,
        config: WorkerConfig,
        shape: tuple[int, ...],
        device: torch.device,
        model_dir: Path,
    ) -> None:
        self._module, self._config, self._shape, self._device, self._model_dir = (
            module,
            config,
            shape,
            device,
            model_dir,
        )
        self._folded = fold_batch_norms(module)
        self.example = torch.randn((4, *shape), generator=torch.Generator().manual_seed(0))
        self._expected = self._folded(self.example)
        has_bf16 = config.precision == "bf16" and not is_emulated("bf16")
        if config.precision == "bf16" and not has_bf16:
            logger.info("this CPU has no bf16 instructions: computing in fp32, which is faster here and more precise")
        self._plain_bf16 = _in_precision(copy.deepcopy(self._folded), "bf16") if has_bf16 else None
        self.names = ["off fp32", "off bf16"] if has_bf16 else ["off fp32"]
        if isinstance(self._expected, torch.Tensor):
            self.names += ["winograd fp32", "winograd bf16"] if has_bf16 and winograd.has_bf16() else ["winograd fp32"]
            if find_spec("openvino") is not None:
                self.names.append("openvino bf16" if has_bf16 else "openvino fp32")
            elif has_bf16 and "amx_bf16" in cpu_flags():
                logger.info("this CPU has AMX: OpenVINO is the fastest in bf16, once the package openvino is installed")

    def build(self, way: str) -> Forward | None:
        """The forward, or None if it cannot be built here, fails, or answers other than plain PyTorch does."""
        compiler, precision = way.split()
        if compiler == "off":
            return self._folded if precision == "fp32" else self._plain_bf16
        try:
            if compiler == "winograd":
                forward: Forward = winograd.accelerate(self._module, self._model_dir, precision == "bf16")
            else:
                plain = self.build(f"off {precision}")
                assert plain is not None
                forward = _openvino(self._folded, plain, precision, self._shape, self._device)
            difference = forward(self.example) - self._expected
        except winograd.WinogradUnavailableError as error:
            logger.info("convolutions stay PyTorch's: %s", error)
            return None
        except (RuntimeError, ValueError, ImportError) as error:
            logger.warning("%s in %s fails: not used (%s)", compiler, precision, error)
            return None
        if not self._is_right(difference, precision):
            logger.warning("%s in %s differs by %g: not used", compiler, precision, float(difference.abs().max()))
            return None
        return forward

    def _is_right(self, difference: torch.Tensor, precision: str) -> bool:
        if precision == "bf16":
            return _rms(difference) <= BF16_TOLERANCE * self._error_of_plain_bf16
        return float(difference.abs().max()) <= FP32_TOLERANCE * float(self._expected.abs().max())

    @cached_property
    def _error_of_plain_bf16(self) -> float:
        assert self._plain_bf16 is not None, "only asked for where the CPU has bf16"
        return _rms(self._plain_bf16(self.example) - self._expected)


def _check_alike(compiled: Forward, plain: Forward, shape: tuple[int, ...]) -> None:
    """Refuse what a compiler made of a module whose Python does other things for another number of items."""
    for count in (3, 1):
        example = torch.randn((count, *shape), generator=torch.Generator().manual_seed(0))
        actual, expected = compiled(example), plain(example)
        if not isinstance(actual, torch.Tensor) or not isinstance(expected, torch.Tensor):
            return
        if actual.shape != expected.shape or _rms(actual - expected) > ALIKE * _rms(expected):
            raise ValueError(f"what compile: made of the model answers other than the model for {count} items")


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
    module: torch.nn.Module, plain: Forward, precision: str, shape: tuple[int, ...] | None, device: torch.device
) -> Forward:
    """`module` as OpenVINO runs it, for any number of items of `shape`; `plain` is the same and runs other shapes.

    OpenVINO reads a module by running it once: what its Python works out from the size of an image (Swin's windows)
    it takes for constants, and would answer wrongly for another size.
    """
    try:
        import openvino
    except ImportError:
        raise ValueError("compile: openvino needs the package openvino; pip install openvino") from None
    if shape is None or device.type != "cpu":
        raise ValueError("compile: openvino needs a CPU and an input_shape it can run once")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about how OpenVINO reads a module
        model = openvino.convert_model(
            module.float(), example_input=torch.zeros((2, *shape)), input=openvino.PartialShape([-1, *shape])
        )
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        # Pinned, the threads of every worker sit on the first cores: two workers of one thread share one core.
        "ENABLE_CPU_PINNING": False,
    }
    compiled = _openvino_core().compile_model(model, "CPU", hints)

    def forward(batch: torch.Tensor) -> Any:
        if batch.shape[1:] != shape:
            return plain(batch)
        outputs = compiled(batch.float().contiguous().numpy())
        tensors = tuple(torch.from_numpy(outputs[index].copy()) for index in range(len(compiled.outputs)))
        return tensors[0] if len(tensors) == 1 else tensors

    return forward


@cache
def _openvino_core() -> Any:
    """One for the life of the process.

    On CPUs with AMX, OpenVINO gives the thread that made a core a stack for signals, and unmaps it with the core. Where
    another thread frees the core (the idle timer), the next signal that Python handles would end the process.
    """
    import openvino

    return openvino.Core()

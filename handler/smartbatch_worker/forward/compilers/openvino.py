"""OpenVINO, where its package is installed: the fastest in bf16 on CPUs with AMX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from smartbatch_worker.contract.machine import cpu_flags
from smartbatch_worker.forward.compilers import reading
from smartbatch_worker.forward.compilers.compiler import Built, Compiler, Task

logger = logging.getLogger(__name__)

_PACKAGES = ["openvino"]
_DTYPES = {
    "float32": "f32",
    "float64": "f64",
    "float16": "f16",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
    "uint8": "u8",
    "bool": "boolean",
}
"""Of inputs, by torch's names; NumPy has no bfloat16."""


def why_not(task: Task) -> str | None:
    """It is not installed, this is no CPU, or nobody says what one item looks like."""
    return reading.why_not("openvino", task, _PACKAGES, _DTYPES)


def build(task: Task) -> Built:
    """The module as OpenVINO runs it, for any number of items; `task.plain` runs what it was not read for."""
    import openvino

    module, example = reading.in_order(task)
    shapes = map(openvino.PartialShape, reading.shapes(task))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about how a module is read
        if task.inputs is None:
            with task.undisturbed():
                model = openvino.convert_model(module, example_input=example[0], input=next(shapes))
        else:
            try:
                with task.undisturbed():
                    traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
            except Exception as error:  # one that gives no tensors, as those that write texts
                raise ValueError(reading.cannot_read("openvino", error)) from error
            types = [getattr(openvino.Type, _DTYPES[spec.dtype]) for spec in task.inputs]
            model = openvino.convert_model(traced, input=list(zip(shapes, types, strict=True)))
    return Built(reading.with_pytorch(task, _compiled(model, task)), modules=(task.plain_module,))


def _compiled(model: Any, task: Task) -> reading.Run:
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": task.num_threads,
        "INFERENCE_PRECISION_HINT": "bf16" if task.precision == "bf16" else "f32",
        # Pinned, the threads of every worker sit on the first cores: two workers of one thread share one core.
        "ENABLE_CPU_PINNING": False,
    }
    compiled = _core().compile_model(model, "CPU", hints)

    def run(inputs: Sequence[torch.Tensor]) -> Any:
        outputs = compiled([tensor.numpy() for tensor in inputs])
        tensors = tuple(torch.from_numpy(outputs[index].copy()) for index in range(len(compiled.outputs)))
        return tensors[0] if len(tensors) == 1 else tensors

    return run


def ways(task: Task, has_bf16: bool) -> tuple[str, ...]:
    """The configured precision, where the package is installed; the log recommends it where it would win."""
    if not reading.not_installed(_PACKAGES):
        return ("bf16",) if has_bf16 else ("fp32",)
    if has_bf16 and "amx_bf16" in cpu_flags():
        logger.info("this CPU has AMX: OpenVINO is the fastest in bf16, once the package openvino is installed")
    return ()


@cache
def _core() -> Any:
    """One for the life of the process.

    On CPUs with AMX, OpenVINO gives the thread that made a core a stack for signals, and unmaps it with the core. Where
    another thread frees the core (the idle timer), the next signal that Python handles would end the process.
    """
    import openvino

    return openvino.Core()


COMPILER = Compiler(name="openvino", build=build, why_not=why_not, ways=ways, reads_once=True)

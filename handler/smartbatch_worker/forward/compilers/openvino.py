"""OpenVINO, where its package is installed: the fastest in bf16 on CPUs with AMX.

It reads a module by running it once: what its Python works out from the size of an image (Swin's windows) it takes for
constants, and would answer wrongly for another size. Images of another size run as PyTorch runs them.
"""

from __future__ import annotations

import logging
import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

from smartbatch_worker.contract.machine import cpu_flags
from smartbatch_worker.forward.compilers.compiler import Built, Compiler, Task

logger = logging.getLogger(__name__)


def why_not(task: Task) -> str | None:
    """It is not installed, this is no CPU, or nobody says what one item looks like."""
    try:
        import openvino  # noqa: F401
    except ImportError:
        return "compile: openvino needs the package openvino; pip install openvino"
    if task.shape is None or task.device.type != "cpu":
        return "compile: openvino needs a CPU and an input_shape it can run once"
    return None


def build(task: Task) -> Built:
    """The module as OpenVINO runs it, for any number of items of the shape; `task.plain` runs other shapes."""
    import openvino

    shape, plain = task.shape, task.plain
    assert shape is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about how OpenVINO reads a module
        model = openvino.convert_model(
            task.folded.float(), example_input=torch.zeros((2, *shape)), input=openvino.PartialShape([-1, *shape])
        )
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": task.num_threads,
        "INFERENCE_PRECISION_HINT": "bf16" if task.precision == "bf16" else "f32",
        # Pinned, the threads of every worker sit on the first cores: two workers of one thread share one core.
        "ENABLE_CPU_PINNING": False,
    }
    compiled = _core().compile_model(model, "CPU", hints)

    def forward(batch: torch.Tensor) -> Any:
        if batch.shape[1:] != shape:
            return plain(batch)
        outputs = compiled(batch.float().contiguous().numpy())
        tensors = tuple(torch.from_numpy(outputs[index].copy()) for index in range(len(compiled.outputs)))
        return tensors[0] if len(tensors) == 1 else tensors

    return Built(forward, modules=(task.plain_module,))


def ways(has_bf16: bool) -> tuple[str, ...]:
    """The configured precision, where the package is installed; the log recommends it where it would win."""
    if find_spec("openvino") is not None:
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

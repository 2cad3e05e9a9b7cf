"""OpenVINO, where its package is installed: the fastest in bf16 on CPUs with AMX.

It reads a module by running it once: what its Python works out from the size of an image (Swin's windows) it takes for
constants, and would answer wrongly for another size. Images of another size run as PyTorch runs them. Named inputs are
of any length, and what was made of such a module is compared at several; PyTorch runs what is longer than all of these.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

from smartbatch_worker.contract.inputs import Inputs, padded_letters
from smartbatch_worker.contract.machine import cpu_flags
from smartbatch_worker.forward.batches import check_of
from smartbatch_worker.forward.compilers.compiler import Built, Compiler, Task

logger = logging.getLogger(__name__)

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
    try:
        import openvino  # noqa: F401
    except ImportError:
        return "compile: openvino needs the package openvino; pip install openvino"
    if task.device.type != "cpu" or (task.examples is None and task.shape is None):
        return "compile: openvino needs a CPU, and an input_shape or an example it can run once"
    if task.inputs is not None and any(spec.dtype not in _DTYPES for spec in task.inputs):
        return f"compile: openvino takes inputs of {', '.join(_DTYPES)}"
    return None


def build(task: Task) -> Built:
    """The module as OpenVINO runs it, for any number of items; `task.plain` runs what it was not read for."""
    if task.inputs is not None:
        return _build_named(task, task.inputs)
    import openvino

    shape, plain = task.shape, task.plain
    assert shape is not None
    with task.undisturbed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about how OpenVINO reads a module
        model = openvino.convert_model(
            task.folded.float(), example_input=torch.zeros((2, *shape)), input=openvino.PartialShape([-1, *shape])
        )
    run = _compiled(model, task)

    def forward(batch: torch.Tensor) -> Any:
        if batch.shape[1:] != shape:
            return plain(batch)
        return run([batch.float()])

    return Built(forward, modules=(task.plain_module,))


class _InOrder(torch.nn.Module):
    """A module of named inputs as one of arguments, which is what can be traced."""

    def __init__(self, module: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module, self._names = module, names

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.module(dict(zip(self._names, tensors, strict=True)))


def _build_named(task: Task, inputs: Inputs) -> Built:
    import openvino

    plain, names = task.plain, [spec.name for spec in inputs]
    assert task.examples is not None
    batches = [batch for batch in task.examples.compared if isinstance(batch, dict)]

    def sizes(batch: dict[str, torch.Tensor]) -> list[int]:
        return [size for name in names for size in batch[name].shape[1:]]

    padded = padded_letters(inputs)
    # At sizes that are not padded only the example's was compared.
    is_padded = [size in padded for spec in inputs for size in spec.shape]
    bounds = [
        (0 if varies else min(column), max(column))
        for varies, column in zip(is_padded, zip(*map(sizes, batches), strict=True), strict=True)
    ]
    module = _InOrder(task.folded.float(), names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about how a module is read
        example = tuple(batches[0][name] for name in names)
        try:
            with task.undisturbed():
                traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
        except Exception as error:  # one that gives no tensors, as those that write texts
            reason = (str(error).strip().splitlines() or [""])[0]
            raise ValueError(f"compile: openvino cannot read this model ({type(error).__name__}: {reason})") from error
        shapes = [[-1, *(size if isinstance(size, int) else -1 for size in spec.shape)] for spec in inputs]
        types = [getattr(openvino.Type, _DTYPES[spec.dtype]) for spec in inputs]
        model = openvino.convert_model(
            traced, input=[(openvino.PartialShape(shape), kind) for shape, kind in zip(shapes, types, strict=True)]
        )
    run = _compiled(model, task)
    check = check_of(task.module)

    def forward(batch: dict[str, torch.Tensor]) -> Any:
        if not all(least <= size <= most for size, (least, most) in zip(sizes(batch), bounds, strict=True)):
            return plain(batch)
        check(batch)
        return run([batch[name] for name in names])

    return Built(forward, modules=(task.plain_module,))


def _compiled(model: Any, task: Task) -> Callable[[Sequence[torch.Tensor]], Any]:
    """From a model's inputs in their order to what it gives."""
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": task.num_threads,
        "INFERENCE_PRECISION_HINT": "bf16" if task.precision == "bf16" else "f32",
        # Pinned, the threads of every worker sit on the first cores: two workers of one thread share one core.
        "ENABLE_CPU_PINNING": False,
    }
    compiled = _core().compile_model(model, "CPU", hints)

    def run(inputs: Sequence[torch.Tensor]) -> Any:
        outputs = compiled([tensor.contiguous().numpy() for tensor in inputs])
        tensors = tuple(torch.from_numpy(outputs[index].copy()) for index in range(len(compiled.outputs)))
        return tensors[0] if len(tensors) == 1 else tensors

    return run


def ways(task: Task, has_bf16: bool) -> tuple[str, ...]:
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

"""PyTorch itself: batch norms folded where the source is known, converted to the precision. It is always there."""

from __future__ import annotations

from smartbatch_worker.forward.compilers.compiler import Built, Compiler, Task
from smartbatch_worker.forward.precision import in_precision


def build(task: Task) -> Built:
    """The module converted in place: nothing else needs it, and two copies may be more than the memory holds."""
    return Built(in_precision(task.folded, task.precision), modules=(task.folded,))


def ways(task: Task, has_bf16: bool) -> tuple[str, ...]:
    """Both precisions: fp32 may be the faster one even where the CPU has bf16."""
    return ("fp32", "bf16") if has_bf16 else ("fp32",)


COMPILER = Compiler(name="off", build=build, ways=ways)

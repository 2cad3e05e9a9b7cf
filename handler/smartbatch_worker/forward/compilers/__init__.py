"""What makes a forward of a module: one file a compiler, one table.

`choose` asks `COMPILERS`; `compiler` says what a row holds and what it is given. A compiler may use another's forward
(CUDA graphs record PyTorch's) and `kernels/`, and knows nothing of how the ways compare. A new one: CONTRIBUTING.md,
recipe 3.
"""

from __future__ import annotations

from smartbatch_worker.forward.compilers import cuda_graphs, inductor, onnxruntime, openvino, plain, winograd
from smartbatch_worker.forward.compilers.compiler import Compiler

__all__ = ["COMPILERS"]

COMPILERS: dict[str, Compiler] = {
    row.name: row
    for row in (
        plain.COMPILER,
        winograd.COMPILER,
        inductor.COMPILER,
        openvino.COMPILER,
        onnxruntime.COMPILER,
        cuda_graphs.COMPILER,
    )
}
"""By name, as `compile` takes them, in the order in which `compile: auto` tries those that it does."""

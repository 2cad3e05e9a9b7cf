"""torch.compile: PyTorch's own compiler, with the weights frozen into what it makes."""

from __future__ import annotations

import torch

from smartbatch_worker.forward.compilers import plain
from smartbatch_worker.forward.compilers.compiler import Built, Compiler, Task
from smartbatch_worker.forward.precision import Forward


def build(task: Task) -> Built:
    """Compile for any number of items; right here where the shape is known, else at the first requests."""
    import torch._inductor.config as inductor_config

    inductor_config.freezing = True
    shape = task.shape
    function: Forward = torch.compile(plain.build(task).forward, dynamic=True)
    if shape is not None:
        for size in (2, 1):  # two: the general batch; one is always specialised
            example = torch.zeros((size, *shape), device=task.device)
            function(example.contiguous(memory_format=torch.channels_last) if len(shape) == 3 else example)
    return Built(function)


COMPILER = Compiler(name="inductor", build=build)

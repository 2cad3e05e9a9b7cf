"""What a library that reads a module by running it once needs to know of it, and what PyTorch runs all the same.

What the module's Python works out from the size of an image (Swin's windows) such a library takes for constants, and
would answer wrongly for another size. Images of another size run as PyTorch runs them. Named inputs are of any length,
and what was made of such a module is compared at several; PyTorch runs what is longer than all of these.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from importlib.util import find_spec
from typing import Any, TypeAlias

import torch

from smartbatch_worker.contract.inputs import padded_letters
from smartbatch_worker.forward.batches import check_of
from smartbatch_worker.forward.compilers.compiler import Task
from smartbatch_worker.forward.precision import Forward
from smartbatch_worker.models.kind import first_line

Run: TypeAlias = Callable[[Sequence[torch.Tensor]], Any]
"""From a module's inputs in their order, on the host and contiguous, to what it gives."""


def not_installed(packages: Sequence[str]) -> list[str]:
    """Those that are not."""
    return [package for package in packages if find_spec(package) is None]


def why_not(compiler: str, task: Task, packages: Sequence[str], dtypes: Collection[str]) -> str | None:
    """A package is not installed, this is no CPU, or nobody says what one item looks like.

    Args:
        compiler: its name.
        task: what it is to compile.
        packages: what it needs.
        dtypes: of inputs that it takes, by torch's names.
    """
    if missing := not_installed(packages):
        return f"compile: {compiler} needs {' and '.join(missing)}; pip install 'smartbatch[{compiler}]'"
    if task.device.type != "cpu" or (task.examples is None and task.shape is None):
        return f"compile: {compiler} needs a CPU, and an input_shape or an example it can run once"
    if task.inputs is not None and any(spec.dtype not in dtypes for spec in task.inputs):
        return f"compile: {compiler} takes inputs of {', '.join(dtypes)}"
    return None


def cannot_read(compiler: str, error: Exception) -> str:
    """Why a module is refused that cannot be read."""
    return f"compile: {compiler} cannot read this model ({first_line(error)})"


class InOrder(torch.nn.Module):
    """A module of named inputs as one of arguments, which is what can be read."""

    def __init__(self, module: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module, self._names = module, names

    def forward(self, *tensors: torch.Tensor) -> Any:
        """Call it with the tensors, in the order of the names."""
        return self.module(dict(zip(self._names, tensors, strict=True)))


def in_order(task: Task) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The folded module in float32 as one of arguments, and two items or more to read it with."""
    if task.inputs is None:
        assert task.shape is not None
        return task.folded.float(), (torch.zeros((2, *task.shape)),)
    first = _compared(task)[0]
    return InOrder(task.folded.float(), [spec.name for spec in task.inputs]), tuple(
        first[spec.name] for spec in task.inputs
    )


def shapes(task: Task) -> list[list[int]]:
    """Of each input of that, -1 where a size is free."""
    if task.inputs is None:
        assert task.shape is not None
        return [[-1, *task.shape]]
    return [[-1, *(size if isinstance(size, int) else -1 for size in spec.shape)] for spec in task.inputs]


def with_pytorch(task: Task, run: Run) -> Forward:
    """The task's forward: by `run` for the sizes that it was compared at, by PyTorch for all others.

    Args:
        task: what was read.
        run: what was made of it.
    """
    if task.inputs is None:
        return _of_one(task, run)
    plain, names, inputs = task.plain, [spec.name for spec in task.inputs], task.inputs

    def sizes(batch: dict[str, torch.Tensor]) -> list[int]:
        return [size for name in names for size in batch[name].shape[1:]]

    padded = padded_letters(inputs)
    # At sizes that are not padded only the example's was compared.
    is_padded = [size in padded for spec in inputs for size in spec.shape]
    bounds = [
        (0 if varies else min(column), max(column))
        for varies, column in zip(is_padded, zip(*map(sizes, _compared(task)), strict=True), strict=True)
    ]
    check = check_of(task.module)

    def forward(batch: dict[str, torch.Tensor]) -> Any:
        if not all(least <= size <= most for size, (least, most) in zip(sizes(batch), bounds, strict=True)):
            return plain(batch)
        check(batch)
        return run([batch[name].contiguous() for name in names])

    return forward


def _of_one(task: Task, run: Run) -> Forward:
    plain, shape = task.plain, task.shape

    def forward(batch: torch.Tensor) -> Any:
        return run([batch.float().contiguous()]) if batch.shape[1:] == shape else plain(batch)

    return forward


def _compared(task: Task) -> list[dict[str, torch.Tensor]]:
    assert task.examples is not None
    return [batch for batch in task.examples.compared if isinstance(batch, dict)]

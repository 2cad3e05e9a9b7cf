"""Whether what was made of a model answers as the model does."""

from __future__ import annotations

from typing import Any

import torch

from smartbatch_worker.forward.batches import Batch, num_items
from smartbatch_worker.forward.compilers.compiler import Task
from smartbatch_worker.forward.precision import Forward

ALIKE = 0.1
"""Of the answers, root mean square: how far two ways may be apart in one precision, of which bf16 takes a tenth."""


def difference(answers: list[Any], expected: list[Any]) -> torch.Tensor:
    """Of all numbers.

    Raises:
        ValueError: an answer has another shape.
    """
    for answer, wanted in zip(answers, expected, strict=True):
        if answer.shape != wanted.shape:
            raise ValueError(f"it answers {list(answer.shape)} where {list(wanted.shape)} is right")
    pairs = zip(answers, expected, strict=True)
    return torch.cat([(answer.float() - wanted.float()).flatten() for answer, wanted in pairs])


def check_alike(compiled: Forward, task: Task) -> None:
    """Refuse what a compiler made of a module whose Python does other things for another number or length of items."""
    batches: list[Batch] = []
    if task.inputs is None:
        generator, shape = torch.Generator().manual_seed(0), task.shape or ()
        batches = [torch.randn((count, *shape), generator=generator) for count in (3, 1)]
    elif task.examples is not None:
        batches = list(task.examples.compared)
    for batch in batches:
        actual, expected = compiled(batch), task.plain(batch)
        if not isinstance(expected, torch.Tensor) and type(actual) is not type(expected):
            kinds = [type(answer).__name__ for answer in (actual, expected)]
            raise ValueError(f"what compile: made of the model gives a {kinds[0]}, the model a {kinds[1]}")
        if not isinstance(expected, (torch.Tensor, tuple)):
            return
        pairs = [(actual, expected)] if isinstance(expected, torch.Tensor) else zip(actual, expected, strict=True)
        if not all(_is_alike(one, other) for one, other in pairs):
            told = f"{num_items(batch)} items"
            if isinstance(batch, dict):
                told += f" of {', '.join(f'{name} {list(tensor.shape[1:])}' for name, tensor in batch.items())}"
            raise ValueError(f"what compile: made of the model answers other than the model for {told}")


def _is_alike(actual: Any, expected: Any) -> bool:
    if not isinstance(actual, torch.Tensor) or not isinstance(expected, torch.Tensor):
        return type(actual) is type(expected)
    return actual.shape == expected.shape and rms(actual - expected) <= ALIKE * rms(expected)


def rms(tensor: torch.Tensor) -> float:
    """Root mean square."""
    return float(tensor.float().square().mean().sqrt())

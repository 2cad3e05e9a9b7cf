"""What a model is called with: one tensor [N, …], named ones, or a list of items; and what is done to all alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch

Batch: TypeAlias = torch.Tensor | dict[str, torch.Tensor] | list[torch.Tensor]


class ByName(torch.nn.Module):
    """A module of several arguments as one of a single batch: named tensors, given by name."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, torch.Tensor]) -> Any:
        """Call it with every [N, …] of the batch."""
        return self.module(**batch)


def check_of(module: torch.nn.Module) -> Callable[[dict[str, torch.Tensor]], None]:
    """What a module of named inputs refuses before it computes, which is no part of what a compiler reads of it."""
    check: Callable[..., None] | None = getattr(_inner(module), "check_inputs", None)
    return lambda batch: None if check is None else check(**batch)


@contextmanager
def unchecked(module: torch.nn.Module) -> Iterator[None]:
    """For the length of the block the module computes without that: what it asks of numbers cannot be exported."""
    inner: Any = _inner(module)
    if hasattr(inner, "check_inputs"):
        inner.check_inputs = lambda *_, **__: None
    try:
        yield
    finally:
        vars(inner).pop("check_inputs", None)


def _inner(module: torch.nn.Module) -> torch.nn.Module:
    return module.module if isinstance(module, ByName) else module


def each(function: Callable[[torch.Tensor], torch.Tensor], batch: Batch) -> Batch:
    """The batch with `function` applied to every tensor."""
    if isinstance(batch, dict):
        return {name: function(tensor) for name, tensor in batch.items()}
    if isinstance(batch, list):
        return [function(tensor) for tensor in batch]
    return function(batch)


def num_items(batch: Batch) -> int:
    """N."""
    return len(next(iter(batch.values())) if isinstance(batch, dict) else batch)


def first_items(batch: Batch, count: int) -> Batch:
    """The first `count` of its items."""
    return batch[:count] if isinstance(batch, list) else each(lambda tensor: tensor[:count], batch)

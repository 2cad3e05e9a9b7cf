"""What a request of the Open Inference Protocol wants of its answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AskedOutput:
    """One output that was asked for."""

    name: str
    is_binary: bool
    num_classes: int = 0
    """0: the tensor; else so many of its best classes, as texts."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the answer is to have, and in which form."""

    id: str | None = None
    """Returned as it came."""
    outputs: tuple[AskedOutput, ...] = ()
    """In this order; none: all there are."""
    is_binary: bool = False
    """Of outputs that were not asked for one by one."""

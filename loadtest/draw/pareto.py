"""The settings that no other setting beats in both throughput and latency."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def pareto_front(items: Iterable[T], *, gain: Callable[[T], float], cost: Callable[[T], float]) -> list[T]:
    """Keep what nothing else beats: no other has at least its gain at less cost, nor more gain at its cost.

    Returns:
        The front, by rising gain (and so by rising cost).
    """
    front: list[T] = []
    for item in sorted(items, key=lambda it: (-gain(it), cost(it))):
        if not front or cost(item) < cost(front[-1]):
            front.append(item)
    return front[::-1]

"""Items of all rows to micro-batches: group what may share a forward, cut, order by deadline."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from smartbatch_worker.contract.shapes import ItemShape
from smartbatch_worker.flow.inputs import Inputs

K = TypeVar("K", bound=Hashable)
MicroBatchSize = Callable[[ItemShape], int]
"""Most items of a shape in one forward."""


@dataclass(frozen=True, slots=True)
class Item:
    """One input of the model, and where its answer belongs."""

    inputs: Inputs
    row: int
    position: int
    deadline: float = math.inf
    """On the monotonic clock: after it the answer is worthless."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Items that share one forward."""

    shape: ItemShape
    """Of each, padded; what memory ceilings and calibration know them by."""
    items: list[Item]


def plan(items: Sequence[Item], shape_of: Callable[[Item], ItemShape], most: MicroBatchSize) -> list[MicroBatch]:
    """Group items by shape and cut the groups into micro-batches, earliest deadline first.

    Args:
        items: of all rows, in order.
        shape_of: what only items share a forward of which it is the same.
        most: items in one forward, for a shape.

    Returns:
        Every item exactly once.
    """
    micro_batches = []
    for shape, members in grouped(items, shape_of).items():
        members.sort(key=lambda item: item.deadline)  # stable: without deadlines the order of arrival stays
        size = max(1, most(shape))
        # Equal cuts: 9 items at size 8 run as 5 + 4, not 8 + 1.
        num_cuts = math.ceil(len(members) / size)
        base, extra = divmod(len(members), num_cuts)
        start = 0
        for cut in range(num_cuts):
            end = start + base + (cut < extra)
            micro_batches.append(MicroBatch(shape, members[start:end]))
            start = end
    return by_deadline(micro_batches)


def grouped(items: Sequence[Item], key: Callable[[Item], K]) -> dict[K, list[Item]]:
    """Items by what `key` says of them, in order of arrival."""
    groups: dict[K, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def by_deadline(micro_batches: list[MicroBatch]) -> list[MicroBatch]:
    """The most urgent first."""
    return sorted(micro_batches, key=lambda micro_batch: min(item.deadline for item in micro_batch.items))

"""How the items of a model become batches and its answers those of items: one class for each thing a model may take.

TensorBatcher   one tensor [N, …], items of one shape                    `input_shape`
ListBatcher     a list of tensors of any shapes                          a module that says `takes_list`
NamedBatcher    named tensors [N, …], items padded to a common length    `inputs`
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.shapes import ItemShape
from smartbatch_worker.flow import batch
from smartbatch_worker.flow.batch import Item, MicroBatch, MicroBatchSize
from smartbatch_worker.flow.inputs import NamedInputs
from smartbatch_worker.flow.lengths.forward_cost import ForwardCost, fit
from smartbatch_worker.flow.lengths.padding import LetterSizes, Padding
from smartbatch_worker.flow.stack import NamedStacker, Stacker


class Batcher(Protocol):
    """Items to batches, and answers back to items."""

    def plan(self, items: Sequence[Item], most: MicroBatchSize) -> list[MicroBatch]:
        """Every item exactly once, in micro-batches of at most as many items as `most` says for their shape."""

    def stack(self, items: Sequence[Item]) -> Any:
        """Items of one micro-batch, or some of them, to what the model is called with; valid until the next call."""

    def cut_back(self, answers: Sequence[Any], items: Sequence[Item]) -> list[Any]:
        """Each item's answer without what stands where its input was padded, as `stack` padded these items."""

    def padding_ratio(self) -> float | None:
        """Of the numbers stacked since the last call, the share that was padding; None: this one never pads."""


class TensorBatcher:
    """Items of one float32 tensor each (uint8 becomes float32): those of one shape share a forward."""

    def __init__(self, stacker: Stacker) -> None:
        self._stacker = stacker

    def plan(self, items: Sequence[Item], most: MicroBatchSize) -> list[MicroBatch]:
        """Items of one shape together."""
        return batch.plan(items, _shape_of, most)

    def stack(self, items: Sequence[Item]) -> torch.Tensor:
        """[N, …], float32."""
        return self._stacker.stack([_tensor(item) for item in items])

    def cut_back(self, answers: Sequence[Any], items: Sequence[Item]) -> list[Any]:
        """Nothing was padded."""
        return list(answers)

    def padding_ratio(self) -> float | None:
        """Nothing is padded."""
        return None


class ListBatcher:
    """Items of one float32 tensor each, of any shapes in one forward: pictures of the size they came in."""

    def __init__(self, stacker: Stacker) -> None:
        self._stacker = stacker

    def plan(self, items: Sequence[Item], most: MicroBatchSize) -> list[MicroBatch]:
        """Items of like size together, as a model that pads them itself wastes the least so."""
        micro_batches: list[MicroBatch] = []
        left = sorted(items, key=_num_numbers)
        while left:
            shape = _shape_of(left[-1])  # of the largest
            size = max(1, most(shape))
            micro_batches.append(MicroBatch(shape, left[-size:]))
            del left[-size:]
        return batch.by_deadline(micro_batches)

    def stack(self, items: Sequence[Item]) -> list[torch.Tensor]:
        """A list of float32 tensors, each of its own shape and memory."""
        return [self._stacker.stack([_tensor(item)])[0].clone() for item in items]

    def cut_back(self, answers: Sequence[Any], items: Sequence[Item]) -> list[Any]:
        """What the model pads itself it cuts off itself."""
        return list(answers)

    def padding_ratio(self) -> float | None:
        """The model's own padding is not seen."""
        return None


class NamedBatcher:
    """Items of named tensors; those that differ in padded sizes alone share a forward.

    Args:
        config: inputs, lengths and outputs of the model.
        stacker: of pictures among the inputs.
        timings: seconds of a forward by its items, for each shape that was measured by now.
        pin_memory: for copies to a GPU.
    """

    def __init__(
        self,
        config: WorkerConfig,
        stacker: Stacker,
        timings: Callable[[], Sequence[tuple[ItemShape, Mapping[int, float]]]] = tuple,
        pin_memory: bool = False,
    ) -> None:
        self.padding = Padding(config)
        self._stacker = NamedStacker(self.padding, stacker, pin_memory)
        self._timings = timings
        self._num_numbers = self._num_padded = 0
        self._fitted: tuple[Sequence[tuple[ItemShape, Mapping[int, float]]], ForwardCost] | None = None
        """The cost of a forward, and the timings that it comes from."""
        self._stacked: tuple[Sequence[Item], list[LetterSizes], LetterSizes] | None = None
        """What was stacked last, until it is cut back: items, their sizes, what they were padded to."""

    def plan(self, items: Sequence[Item], most: MicroBatchSize) -> list[MicroBatch]:
        """Items of like length together."""
        if not self.padding.letters:
            return batch.plan(items, self._shape_of, most)
        micro_batches = []
        cost = self._cost()
        for members in batch.grouped(items, lambda item: self.padding.key(_named(item))).values():
            first, sizes = members[0], [self.padding.sizes_of(_named(item)) for item in members]

            def shape(bucket: dict[str, int], first: Item = first) -> ItemShape:
                return self.padding.shape(_named(first), bucket)

            for cut in self.padding.cuts(sizes, lambda bucket: most(shape(bucket)), cost):
                bucket = self.padding.bucket(self.padding.padded([sizes[at] for at in cut]))
                micro_batches.append(MicroBatch(shape(bucket), [members[at] for at in cut]))
        return batch.by_deadline(micro_batches)

    def stack(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """[N, …] of each input, padded to the longest of the items or the next of `lengths`."""
        self._stacked = items, *self._sizes(items)
        stacked = self._stacker.stack([_named(item) for item in items], self._stacked[2])
        num_numbers = sum(tensor.numel() for tensor in stacked.values())
        self._num_numbers += num_numbers
        self._num_padded += num_numbers - sum(tensor.numel() for item in items for tensor in _named(item).values())
        return stacked

    def cut_back(self, answers: Sequence[Any], items: Sequence[Item]) -> list[Any]:
        """By `outputs`."""
        last, sizes, padded = self._stacked or ((), [], {})
        self._stacked = None
        if last is not items:  # others were stacked meanwhile
            sizes, padded = self._sizes(items)
        return [self.padding.cut_back(answer, size, padded) for answer, size in zip(answers, sizes, strict=True)]

    def padding_ratio(self) -> float | None:
        """Of all numbers of all inputs."""
        ratio = self._num_padded / self._num_numbers if self._num_numbers else 0.0
        self._num_numbers = self._num_padded = 0
        return ratio

    def _cost(self) -> ForwardCost:
        """Of a forward, by what was measured; worked out once, for that changes only when the model is loaded."""
        timings = self._timings()
        if self._fitted is None or self._fitted[0] != timings:
            timed = [
                (num_items, self.padding.tokens_of(shape), seconds)
                for shape, by_items in timings
                for num_items, seconds in by_items.items()
            ]
            self._fitted = timings, fit(timed)
        return self._fitted[1]

    def _sizes(self, items: Sequence[Item]) -> tuple[list[LetterSizes], LetterSizes]:
        """Each item's own, and what they are padded to together."""
        sizes = [self.padding.sizes_of(_named(item)) for item in items]
        return sizes, self.padding.padded(sizes)

    def _shape_of(self, item: Item) -> ItemShape:
        return self.padding.shape(_named(item), {})


def _shape_of(item: Item) -> ItemShape:
    return tuple(_tensor(item).shape)


def _num_numbers(item: Item) -> int:
    return math.prod(_shape_of(item))


def _tensor(item: Item) -> torch.Tensor:
    return cast(torch.Tensor, item.inputs)


def _named(item: Item) -> NamedInputs:
    return cast(NamedInputs, item.inputs)

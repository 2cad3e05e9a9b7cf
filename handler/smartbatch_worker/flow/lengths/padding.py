"""Items of several lengths in one forward: which go together, what they are padded to, what is cut off again.

    lengths  5 9 9 12 30 31 200  ──sorted, cut where padding costs more than a forward──▶  [5 9 9 12] [30 31] [200]

An item's bucket is the next size of `lengths`, or the next power of two: memory ceilings and calibration know items by
it. Where a user declares `lengths`, items are padded to them; otherwise only to the longest of their forward.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.inputs import InputSpec, Lengths, padded_letters
from smartbatch_worker.contract.shapes import ItemShape
from smartbatch_worker.errors import ModelFailed
from smartbatch_worker.flow.inputs import NamedInputs
from smartbatch_worker.flow.lengths.forward_cost import ForwardCost

LetterSizes = dict[str, int]
"""Of an item or a forward, by padded letter."""

MIN_BUCKET = 8
_DEFAULT_COST = ForwardCost()
_MAX_PLANNED = 256
"""Items whose best cuts are looked for; of more, each cut is as large as it may be."""


class Padding:
    """What a configuration says of lengths."""

    def __init__(self, config: WorkerConfig) -> None:
        self.specs = config.inputs or ()
        self.letters = sorted(padded_letters(self.specs))
        self._lengths: Lengths = config.lengths
        self._declared = dict(config.lengths)
        self._outputs = config.outputs
        self._max_tokens = config.max_tokens
        self._pad_sides = {letter: spec.pad_side for spec in self.specs for letter in spec.letters if _is_padded(spec)}

    def sizes_of(self, item: NamedInputs) -> LetterSizes:
        """An item's own sizes."""
        return {
            letter: item[spec.name].shape[axis]
            for spec in self.specs
            if _is_padded(spec)
            for axis, letter in enumerate(spec.shape)
            if isinstance(letter, str)
        }

    def padded(self, sizes: Sequence[LetterSizes]) -> LetterSizes:
        """What items of these sizes are padded to in one forward."""
        longest = {letter: max(size[letter] for size in sizes) for letter in self.letters}
        return {letter: self._next(letter, size) for letter, size in longest.items()}

    def bucket(self, sizes: LetterSizes) -> LetterSizes:
        """The sizes by which items of about these sizes are known."""
        return {
            letter: self._next(letter, size) if letter in self._declared else _power_of_two(size)
            for letter, size in sizes.items()
        }

    def key(self, item: NamedInputs) -> tuple[Any, ...]:
        """What items must have in common to share a forward: all sizes but the padded."""
        return tuple(
            tuple(
                size if not _is_padded(spec) or not isinstance(letter, str) else letter
                for size, letter in zip(item[spec.name].shape, spec.shape, strict=True)
            )
            for spec in self.specs
        )

    def shape(self, item: NamedInputs, sizes: LetterSizes) -> ItemShape:
        """The shapes of an item's inputs, padded to `sizes`."""
        return tuple((spec.name, self.padded_shape(item, spec, sizes)) for spec in self.specs)

    def padded_shape(self, item: NamedInputs, spec: InputSpec, sizes: LetterSizes) -> tuple[int, ...]:
        """Of one input."""
        return tuple(
            sizes[letter] if _is_padded(spec) and isinstance(letter, str) else size
            for size, letter in zip(item[spec.name].shape, spec.shape, strict=True)
        )

    def tokens_of(self, shape: ItemShape) -> int:
        """Of an item of this padded shape."""
        sizes: LetterSizes = {}
        for spec, (_, its_sizes) in zip(self.specs, shape, strict=True):
            if _is_padded(spec):
                sizes |= {
                    letter: size for letter, size in zip(spec.shape, its_sizes, strict=True) if isinstance(letter, str)
                }
        return self.tokens(sizes)

    def tokens(self, sizes: LetterSizes) -> int:
        """Of one item: its padded sizes, one with another."""
        return math.prod(sizes.values())

    def cuts(
        self,
        sizes: Sequence[LetterSizes],
        most: Callable[[LetterSizes], int],
        cost: ForwardCost = _DEFAULT_COST,
    ) -> list[list[int]]:
        """Cut items into forwards so that forwards and padding together cost the least.

        Args:
            sizes: of items that may share a forward.
            most: items of a bucket in one forward.
            cost: of a forward.

        Returns:
            Positions in `sizes`, shortest first; each exactly once.
        """
        order = sorted(range(len(sizes)), key=lambda at: self.tokens(sizes[at]))
        lengths = [self.padded([sizes[at]]) for at in order]
        if len(order) > _MAX_PLANNED:
            return self._even_cuts(order, lengths, most)
        # best[end]: the least cost of the first `end` items, and where the last forward among them begins.
        best: list[tuple[float, int]] = [(0.0, 0)]
        for end in range(1, len(order) + 1):
            longest = lengths[end - 1]
            limit, each = self._limit(longest, most), cost.of_item(self.tokens(longest))
            found = (math.inf, end - 1)
            for begin in range(end - 1, -1, -1):
                if len(longest) > 1 and any(size > longest[letter] for letter, size in lengths[begin].items()):
                    # Of several letters, the largest item need not be the longest in each.
                    longest = {letter: max(size, longest[letter]) for letter, size in lengths[begin].items()}
                    limit, each = self._limit(longest, most), cost.of_item(self.tokens(longest))
                if end - begin > max(1, limit):
                    break
                found = min(found, (best[begin][0] + cost.fixed + (end - begin) * each, begin))
            best.append(found)
        cuts = []
        end = len(order)
        while end:
            begin = best[end][1]
            cuts.append(order[begin:end])
            end = begin
        return cuts[::-1]

    def cut_back(self, answer: Any, sizes: LetterSizes, padded: LetterSizes) -> Any:
        """One item's answer without what stands at padded places, where `outputs` says that there is such.

        Raises:
            ModelFailed: an output has other sizes than declared.
        """
        if not self._outputs or sizes == padded:
            return answer
        if isinstance(answer, torch.Tensor):
            shape = self._outputs[0][1] if len(self._outputs) == 1 else ()
            return self._cut_tensor(answer, shape, sizes, padded)
        declared = dict(self._outputs)
        if isinstance(answer, Mapping):
            return {
                name: self._cut_tensor(part, declared.get(str(name), ()), sizes, padded)
                for name, part in answer.items()
            }
        if isinstance(answer, list):
            return [self._cut_tensor(part, declared.get(str(at), ()), sizes, padded) for at, part in enumerate(answer)]
        return answer

    def _cut_tensor(self, part: Any, shape: Sequence[Any], sizes: LetterSizes, padded: LetterSizes) -> Any:
        if not isinstance(part, torch.Tensor) or not any(letter in sizes for letter in shape):
            return part
        if part.ndim != len(shape):
            raise ModelFailed(f"an output of shape {list(part.shape)} is not of the {len(shape)} sizes of outputs:")
        for axis, letter in enumerate(shape):
            if letter not in sizes:
                continue
            if part.shape[axis] != padded[letter]:
                raise ModelFailed(
                    f"an output of shape {list(part.shape)} does not have the {padded[letter]} of {letter} that "
                    "outputs: declares"
                )
            start = 0 if self._pad_sides[letter] == "right" else padded[letter] - sizes[letter]
            part = part.narrow(axis, start, sizes[letter])
        return part

    def _even_cuts(
        self, order: Sequence[int], lengths: Sequence[LetterSizes], most: Callable[[LetterSizes], int]
    ) -> list[list[int]]:
        cuts: list[list[int]] = []
        end = len(order)
        while end:
            begin = max(0, end - self._limit(lengths[end - 1], most))
            cuts.append(list(order[begin:end]))
            end = begin
        return cuts[::-1]

    def _limit(self, sizes: LetterSizes, most: Callable[[LetterSizes], int]) -> int:
        limit = max(1, most(self.bucket(sizes)))
        return limit if self._max_tokens is None else max(1, min(limit, self._max_tokens // self.tokens(sizes)))

    def _next(self, letter: str, size: int) -> int:
        declared = self._declared.get(letter)
        if declared is None:
            return size
        at = bisect.bisect_left(declared, size)
        return declared[at] if at < len(declared) else size


def _is_padded(spec: InputSpec) -> bool:
    return spec.pad is not None


def _power_of_two(size: int) -> int:
    return max(MIN_BUCKET, 1 << (size - 1).bit_length())

"""Items to measure and check a model of named inputs with: a user's example at several lengths, or made-up numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.inputs import InputSpec
from smartbatch_worker.contract.shapes import Sample, Samples
from smartbatch_worker.flow.batch import Item
from smartbatch_worker.flow.batchers import NamedBatcher
from smartbatch_worker.flow.inputs import NamedInputs
from smartbatch_worker.flow.lengths.padding import LetterSizes, Padding
from smartbatch_worker.flow.stack import Stacker

MEASURED_LENGTHS = (32, 128)
"""Where the configuration declares none."""
LONGEST_COMPARED = 512
"""Of a text: most models take no longer one, and a forward of one that is costs what nobody would notice."""


def samples(config: WorkerConfig, items: Sequence[NamedInputs]) -> Samples:
    """Batches of several lengths; and to compare by, one in which an item is filled up, one item alone, a long one.

    Args:
        config: inputs and lengths.
        items: of the archive's example; without any, numbers are made up, if they can be.
    """
    items = items or made_up(config)
    batcher = NamedBatcher(config, Stacker(config.image_mean, config.image_std))

    def sample(sizes: LetterSizes) -> Sample:
        its_items = [stretched(item, config, sizes) for item in items]
        return Sample(batcher.padding.shape(its_items[0], sizes), lambda count: together(cycled(its_items, count)))

    def together(its_items: Sequence[NamedInputs]) -> dict[str, torch.Tensor]:
        return batcher.stack([Item(item, 0, 0) for item in its_items])

    if not items:
        return Samples()
    lengths = lengths_to_measure(config)
    halves = {letter: max(1, size // 2) for letter, size in lengths[0].items()}
    compared = [[lengths[0], halves, lengths[0]], [halves]]
    if config.task is not None:  # a text
        compared.append([dict.fromkeys(lengths[0], min(config.max_length, LONGEST_COMPARED))])
    return Samples(
        [sample(sizes) for sizes in lengths],
        [
            {
                name: tensor.clone()
                for name, tensor in together([stretched(items[0], config, sizes) for sizes in each]).items()
            }
            for each in compared
        ],
    )


def made_up(config: WorkerConfig, count: int = 1) -> list[NamedInputs]:
    """Items of numbers that most models take: normally distributed ones, ones where they are integers.

    Returns:
        None of them where a size that is neither fixed nor padded would have to be guessed.
    """
    generator = torch.Generator().manual_seed(0)
    if any(
        size is None or (isinstance(size, str) and spec.pad is None) for spec in _specs(config) for size in spec.shape
    ):
        return []
    return [{spec.name: _numbers(spec, config, generator) for spec in _specs(config)} for _ in range(count)]


def lengths_to_measure(config: WorkerConfig) -> list[LetterSizes]:
    """The shortest, a middle and the longest of what is declared; of a model that pads nothing, one of no letters."""
    padding = Padding(config)
    declared = dict(config.lengths)
    columns = {
        letter: _three_of(declared[letter]) if letter in declared else list(MEASURED_LENGTHS)
        for letter in padding.letters
    }
    most = max((len(column) for column in columns.values()), default=1)
    longest = config.max_length if config.task is not None else math.inf  # of a text
    found = [
        {letter: int(min(column[min(at, len(column) - 1)], longest)) for letter, column in columns.items()}
        for at in range(most)
    ]
    return [sizes for at, sizes in enumerate(found) if sizes not in found[:at]]


def stretched(item: NamedInputs, config: WorkerConfig, sizes: LetterSizes) -> NamedInputs:
    """The item with its padded sizes as told: its numbers repeated, or cut off."""
    made = dict(item)
    for spec in _specs(config):
        for axis, letter in enumerate(spec.shape):
            if spec.pad is not None and isinstance(letter, str):
                tensor = made[spec.name]
                made[spec.name] = tensor.index_select(axis, torch.arange(sizes[letter]) % tensor.shape[axis])
    return made


def cycled(items: Sequence[NamedInputs], count: int) -> list[NamedInputs]:
    """As many items, from the first on again where there are fewer."""
    return [items[at % len(items)] for at in range(count)]


def _specs(config: WorkerConfig) -> Sequence[InputSpec]:
    return config.inputs or ()


def _numbers(spec: InputSpec, config: WorkerConfig, generator: torch.Generator) -> torch.Tensor:
    sizes = lengths_to_measure(config)[0]
    shape = [sizes[size] if isinstance(size, str) else int(size or 1) for size in spec.shape]
    if "float" in spec.dtype:
        return torch.randn(shape, generator=generator).to(getattr(torch, spec.dtype))
    return torch.ones(shape, dtype=getattr(torch, spec.dtype))


def _three_of(sizes: Sequence[int]) -> list[int]:
    return sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]})

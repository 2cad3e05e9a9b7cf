"""The micro-batch size that this machine runs fastest, measured on the real forward and kept.

The best size is rarely the batch size: on CPUs a batch of 32 images falls out of cache where 8 fit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.shapes import ItemShape, Sample, num_numbers, spelled
from smartbatch_worker.forward.measure import time_forward
from smartbatch_worker.forward.measurements import Measurements
from smartbatch_worker.kernels.layout import memory_format_of

logger = logging.getLogger(__name__)

BUDGET_S = 3.0
QUICK_S = 0.25
"""Of measuring: what is done by the way, before the first answer."""
NUM_ROUNDS = 6
MIN_LARGEST = 8
MAX_LARGEST = 256
"""Of any device; a CPU gains nothing beyond MAX_ON_CPU."""
MAX_ON_CPU = 64
_SIZES = tuple(1 << power for power in range(MAX_LARGEST.bit_length()))
CONTENDS = 1.15
"""Sizes further than this from the fastest of the first round cannot win, whatever disturbed that round."""
ROUNDS_OF_SMALLER = 3
"""Of sizes that cannot win, but are smaller than one that may: batches do not always fill up, and one time may be off
by half."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Seconds per item by micro-batch size, for one item shape."""

    shape: ItemShape
    seconds_per_item: dict[int, float]

    @property
    def best(self) -> int:
        """The fastest size, and of equals the largest.

        A lead of a percent, measured alone, is one of three when other workers compute: memory is busy then, and larger
        batches read the weights less often.
        """
        return min(self.seconds_per_item, key=lambda size: (self.seconds_per_item[size], -size))

    def ms_per_item(self) -> dict[str, float]:
        """What was measured, for people and JSON."""
        return {str(size): round(1000 * seconds, 3) for size, seconds in self.seconds_per_item.items()}

    def size_for(self, shape: ItemShape) -> int:
        """The size for another shape: as many numbers per forward as the best one has."""
        if shape == self.shape:
            return self.best
        return max(1, self.best * num_numbers(self.shape) // num_numbers(shape))

    def seconds(self) -> dict[int, float]:
        """Of a whole forward, by its items."""
        return {size: size * seconds for size, seconds in self.seconds_per_item.items()}


class Calibrations:
    """Of one model, by shape; of a shape that was not measured, the one of most nearly as many numbers tells."""

    def __init__(self, measured: Sequence[Calibration]) -> None:
        self.measured = tuple(measured)

    def of(self, shape: ItemShape) -> Calibration | None:
        """The nearest; None where nothing was measured."""
        if not self.measured:
            return None
        numbers = num_numbers(shape)
        return min(self.measured, key=lambda one: abs(math.log(num_numbers(one.shape) / numbers)))


def most_measured(device: torch.device) -> int:
    """Items that are worth measuring at once."""
    return MAX_ON_CPU if device.type == "cpu" else MAX_LARGEST


def random_sample(shape: tuple[int, ...], largest: int, device: torch.device) -> Sample:
    """Normally distributed float32 [N, *shape] on the device, N up to `largest`; made when it is first asked for."""

    @cache
    def whole() -> torch.Tensor:
        batch = torch.randn((largest, *shape), generator=torch.Generator().manual_seed(0))
        return batch.contiguous(memory_format=memory_format_of(shape)).to(device)

    return Sample(shape, lambda size: whole()[:size])


def known_shape(config: WorkerConfig) -> tuple[int, ...] | None:
    """The item shape to measure: the declared one, free image dimensions as images are shown; None if not known."""
    shape = config.input_shape
    if shape is None:
        return None
    if None not in shape:
        return tuple(d for d in shape if d is not None)
    if len(shape) == 3 and shape[0] is not None and shape[1:] == (None, None) and config.image_size is not None:
        return (shape[0], *config.image_size)
    return None


@dataclass(frozen=True, slots=True)
class Question:
    """Which micro-batch is the fastest: of one way of computing, for items of one shape.

    Args:
        measurements: of the model; what was measured is kept there.
        settings: what computes: precision, compiler, device.
        sample: items to compute.
        max_size: most items at once.
    """

    measurements: Measurements
    settings: str
    sample: Sample
    max_size: int

    @property
    def key(self) -> str:
        """Of `Measurements`."""
        return self._key(self._largest)

    def kept(self, *, even_old: bool = False) -> Calibration | None:
        """What was measured, if it was; a week ago at most, or however long ago.

        What was measured up to more items tells it, too; and so does what was up to fewer, where the largest of them
        were not reached, because they lost: a model that is registered anew with other batches is not measured again.
        """
        look = self.measurements.last_known if even_old else self.measurements.kept
        largest = self._largest
        for other in sorted(_SIZES, key=lambda size: (size < largest, size)):  # its own first
            entry = look(self._key(other), _is_size)
            if entry is not None and (other >= largest or max(map(int, entry)) < other):
                return self._calibration({name: seconds for name, seconds in entry.items() if int(name) <= largest})
        return None

    def measured(
        self, forward: Callable[[Any], Any], device: torch.device, budget_s: float = BUDGET_S
    ) -> Calibration | None:
        """Measure, once per model, machine and settings."""

        def measure_it() -> dict[int, float]:
            return measure(forward, self.sample, self.max_size, device, budget_s).seconds_per_item

        return self._calibration(self.measurements.remember(self.key, measure_it, _is_size))

    def is_quick(self, forward: Callable[[Any], Any]) -> bool:
        """Whether measuring takes no longer than anybody would notice; told by a forward or two of one item."""
        sizes = sum(_up_to(self.max_size))
        one = self.sample.batch(1)
        for limit_s in (QUICK_S, QUICK_S / (NUM_ROUNDS * sizes)):  # the first one sets things up
            start = time.perf_counter()
            forward(one)
            if time.perf_counter() - start > limit_s:
                return False
        return True

    @property
    def _largest(self) -> int:
        """That is measured: a power of two."""
        return _up_to(self.max_size)[-1]

    def _key(self, largest: int) -> str:
        return f"micro-batch {self.settings} shape={self.sample.shape} max={largest}"

    def _calibration(self, entry: Mapping[str, float] | None) -> Calibration | None:
        if entry is None:
            return None
        return Calibration(self.sample.shape, {int(size): seconds for size, seconds in entry.items()})


def _up_to(max_size: int) -> list[int]:
    """The sizes that are measured."""
    return [size for size in _SIZES if size <= max_size]


def _is_size(name: str) -> bool:
    return name.isdecimal() and 1 <= int(name) <= MAX_LARGEST


def measure(
    forward: Callable[[Any], Any], sample: Sample, max_size: int, device: torch.device, budget_s: float = BUDGET_S
) -> Calibration:
    """Time the forward at 1, 2, 4 … max_size items, in rounds, keeping each size's fastest time.

    Rounds rather than repeats: a moment of other load then slows one sample of each size and not all of one. The
    first round always reaches MIN_LARGEST items; beyond that, the budget and a clear loss end it. Later rounds spend
    what is left of the budget on the sizes that may still win, and some of them on those that are smaller.
    """
    forward(sample.batch(1))  # the first call sets things up
    seconds_per_item: dict[int, float] = {}
    began = time.perf_counter()

    def is_over_budget() -> bool:
        return time.perf_counter() - began > budget_s

    for size in _up_to(max_size):
        seconds_per_item[size] = time_forward(forward, sample.batch(size), device) / size
        loses = seconds_per_item[size] > CONTENDS * min(seconds_per_item.values())
        if size >= MIN_LARGEST and (is_over_budget() or loses):
            break
    limit = CONTENDS * min(seconds_per_item.values())
    contenders = [size for size, seconds in seconds_per_item.items() if seconds <= limit]
    up_to_them = [size for size in seconds_per_item if size <= max(contenders)]
    for number in range(1, NUM_ROUNDS):
        if is_over_budget():
            break
        for size in up_to_them if number < ROUNDS_OF_SMALLER else contenders:
            seconds = time_forward(forward, sample.batch(size), device) / size
            seconds_per_item[size] = min(seconds, seconds_per_item[size])
    calibration = Calibration(sample.shape, seconds_per_item)
    logger.info(
        "micro-batch calibrated to %d of %s (ms per item: %s)",
        calibration.best,
        spelled(sample.shape),
        {size: round(1000 * seconds, 2) for size, seconds in seconds_per_item.items()},
    )
    return calibration

"""Items of all rows to micro-batches: group by shape, order by deadline, stack into a reused buffer."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from smartbatch_worker.kernels import pixels
from smartbatch_worker.kernels.layout import memory_format_of

_MAX_BUFFERS = 4
_MAX_BUFFER_BYTES = 256 * 2**20  # a larger buffer is not kept: one client's odd shape must not pin memory


@dataclass(frozen=True, slots=True)
class Item:
    """One tensor to run, and where its answer belongs."""

    tensor: torch.Tensor
    row: int
    position: int
    deadline: float = math.inf
    """Unix seconds after which the answer is worthless."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Items of one shape that share one forward."""

    shape: tuple[int, ...]
    items: list[Item]


def plan(items: Sequence[Item], micro_batch_size: Callable[[tuple[int, ...]], int]) -> list[MicroBatch]:
    """Group items by shape and cut the groups into micro-batches, earliest deadline first.

    Args:
        items: of all rows, in order.
        micro_batch_size: most items in one forward, for a shape.

    Returns:
        Every item exactly once. uint8 and float32 items of a shape share a group: both become float32 when stacked.
    """
    groups: dict[tuple[int, ...], list[Item]] = {}
    for item in items:
        groups.setdefault(tuple(item.tensor.shape), []).append(item)
    micro_batches = []
    for shape, members in groups.items():
        members.sort(key=lambda item: item.deadline)  # stable: without deadlines the order of arrival stays
        size = max(1, micro_batch_size(shape))
        # Equal cuts: 9 items at size 8 run as 5 + 4, not 8 + 1.
        num_cuts = math.ceil(len(members) / size)
        base, extra = divmod(len(members), num_cuts)
        start = 0
        for cut in range(num_cuts):
            end = start + base + (cut < extra)
            micro_batches.append(MicroBatch(shape, members[start:end]))
            start = end
    micro_batches.sort(key=lambda micro_batch: micro_batch.items[0].deadline)
    return micro_batches


class Stacker:
    """Stacks items into float32 buffers that are kept per shape, channels last for [C, H, W] items.

    A returned tensor is valid until the next `stack` of the same shape.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], pin_memory: bool = False) -> None:
        self._scale = torch.tensor([1 / (255 * s) for s in std])
        self._offset = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])
        self._rows: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._pin_memory = pin_memory
        self._buffers: OrderedDict[tuple[int, ...], torch.Tensor] = OrderedDict()

    def stack(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Stack tensors of one shape to float32 [N, ...]; uint8 is scaled to 0-1 and normalised on the way."""
        out = self._buffer(tuple(tensors[0].shape), len(tensors))
        for target, tensor in zip(out, tensors, strict=True):
            if tensor.dtype == torch.uint8 and pixels.normalise(tensor, self._scale, self._offset, target):
                continue
            # Planes of uint8 to pixels of float in two steps: torch is slow at converting and transposing at once.
            target.copy_(tensor.float() if tensor.is_contiguous() else tensor)
            if tensor.dtype == torch.uint8:
                self._normalise(target)
        return out

    def _normalise(self, image: torch.Tensor) -> None:
        """(x / 255 - mean) / std in place, on [C, H, W] whose memory is channels last.

        A row of pixels is W x C numbers in memory; scaled by a row of repeated factors the loop runs over contiguous
        memory, eight times as fast as one that broadcasts three factors.
        """
        num_channels, height, width = image.shape
        if width not in self._rows:
            if len(self._rows) >= _MAX_BUFFERS:
                self._rows.clear()
            self._rows[width] = (self._scale.repeat(width), self._offset.repeat(width))
        scale, offset = self._rows[width]
        rows = image.permute(1, 2, 0).view(height, width * num_channels)
        torch.addcmul(offset, rows, scale, out=rows)

    def _buffer(self, shape: tuple[int, ...], count: int) -> torch.Tensor:
        kept = self._buffers.get(shape)
        if kept is None or kept.shape[0] < count:
            kept = self._allocate(shape, count)
            if kept.numel() * 4 <= _MAX_BUFFER_BYTES:
                self._buffers[shape] = kept
                while len(self._buffers) > _MAX_BUFFERS:
                    self._buffers.popitem(last=False)
        if shape in self._buffers:
            self._buffers.move_to_end(shape)
        return kept[:count]

    def _allocate(self, shape: tuple[int, ...], count: int) -> torch.Tensor:
        return torch.empty((count, *shape), memory_format=memory_format_of(shape), pin_memory=self._pin_memory)

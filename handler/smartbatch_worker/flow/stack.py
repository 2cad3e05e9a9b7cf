"""Tensors of the items of a micro-batch to one an input: stacked into a reused buffer, uint8 normalised on the way."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch

from smartbatch_worker.contract.inputs import InputSpec
from smartbatch_worker.flow.inputs import NamedInputs
from smartbatch_worker.flow.lengths.padding import LetterSizes, Padding
from smartbatch_worker.kernels import pixels
from smartbatch_worker.kernels.layout import memory_format_of

_MAX_BUFFERS = 4
_MAX_BUFFER_BYTES = 256 * 2**20  # a larger buffer is not kept: one client's odd shape must not pin memory


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


class NamedStacker:
    """Stacks named inputs, each into a buffer of its dtype, what is shorter padded.

    A returned tensor is valid until the next `stack`.

    Args:
        padding: which inputs are padded, and with what.
        pictures: normalises inputs that are images.
        pin_memory: for copies to a GPU that need not be waited for.
    """

    def __init__(self, padding: Padding, pictures: Stacker, pin_memory: bool = False) -> None:
        self._padding, self._pictures, self._pin_memory = padding, pictures, pin_memory
        self._buffers: dict[str, torch.Tensor] = {}

    def stack(self, items: Sequence[NamedInputs], sizes: LetterSizes) -> dict[str, torch.Tensor]:
        """Stack items that share a forward.

        Args:
            items: alike in all sizes but the padded.
            sizes: to pad to, by letter.

        Returns:
            [N, …] of each input, in the declared dtype.
        """
        batch = {}
        for spec in self._padding.specs:
            tensors = [item[spec.name] for item in items]
            if spec.image:
                batch[spec.name] = self._pictures.stack(tensors)
                continue
            shape = (len(items), *self._padding.padded_shape(items[0], spec, sizes))
            out = self._buffer(spec, shape)
            if spec.pad is None or all(tensor.shape == shape[1:] for tensor in tensors):
                torch.stack(tensors, out=out)
            else:
                out.fill_(spec.pad)
                for target, tensor in zip(out, tensors, strict=True):
                    for axis, size in enumerate(tensor.shape):
                        start = 0 if spec.pad_side == "right" else target.shape[axis] - size
                        target = target.narrow(axis, start, size)
                    target.copy_(tensor)
            batch[spec.name] = out
        return batch

    def _buffer(self, spec: InputSpec, shape: tuple[int, ...]) -> torch.Tensor:
        count = math.prod(shape)
        kept = self._buffers.get(spec.name)
        if kept is None or kept.numel() < count:
            kept = torch.empty(count, dtype=getattr(torch, spec.dtype), pin_memory=self._pin_memory)
            if kept.nbytes <= _MAX_BUFFER_BYTES:
                self._buffers[spec.name] = kept
        return kept[:count].view(shape)

"""Tensors of the items of a micro-batch to one an input: stacked into a reused buffer, uint8 normalised on the way.

For a GPU, uint8 stays uint8: a quarter of the bytes to copy, and `pixels.DeviceNormaliser` does the rest there.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from smartbatch_worker.contract.inputs import InputSpec
from smartbatch_worker.flow.inputs import NamedInputs
from smartbatch_worker.flow.lengths.padding import LetterSizes, Padding
from smartbatch_worker.kernels import pixels
from smartbatch_worker.kernels.layout import memory_format_of

_MAX_BUFFERS = 4
_MAX_BUFFER_BYTES = 256 * 2**20  # a larger buffer is not kept: one client's odd shape must not pin memory


class Stacker:
    """Stacks items into buffers that are kept per shape, channels last for [C, H, W] items.

    A returned tensor is valid until the next `stack` of the same shape.

    Args:
        mean, std: of pixels from 0 to 1, one a channel.
        pin_memory: for copies to a GPU that need not be waited for.
        keeps_pixels: batches of nothing but uint8 stay uint8, for who normalises them later.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], pin_memory: bool = False, keeps_pixels: bool = False
    ) -> None:
        self._scale, self._offset = pixels.scale_and_offset(mean, std)
        self._keeps_pixels = keeps_pixels
        self._rows: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._pin_memory = pin_memory
        self._buffers: OrderedDict[tuple[Any, ...], torch.Tensor] = OrderedDict()
        """By shape, dtype and layout."""

    def stack(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Stack tensors of one shape.

        Returns:
            float32 [N, ...], uint8 scaled to 0-1 and normalised on the way; uint8 where `keeps_pixels` says so. On the
            GPU where some of them are there.
        """
        device = next((tensor.device for tensor in tensors if tensor.is_cuda), None)
        if self._keeps_pixels and all(tensor.dtype == torch.uint8 for tensor in tensors):
            if device is not None:
                return torch.stack([tensor.to(device) for tensor in tensors])
            return self._pixels(tensors)
        if device is not None:
            return torch.stack([self._normalised([tensor.cpu()])[0].to(device) for tensor in tensors])
        return self._normalised(tensors)

    def _pixels(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """In the order in which the first has them: a GPU turns planes to pixels in no time."""
        shape = tuple(tensors[0].shape)
        layout = torch.contiguous_format if tensors[0].is_contiguous() else memory_format_of(shape)
        out = self._buffer(shape, len(tensors), torch.uint8, layout)
        for target, tensor in zip(out, tensors, strict=True):
            target.copy_(tensor)
        return out

    def _normalised(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        shape = tuple(tensors[0].shape)
        out = self._buffer(shape, len(tensors), torch.float32, memory_format_of(shape))
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

    def _buffer(
        self, shape: tuple[int, ...], count: int, dtype: torch.dtype, layout: torch.memory_format
    ) -> torch.Tensor:
        key = shape, dtype, layout
        kept = self._buffers.get(key)
        if kept is None or kept.shape[0] < count:
            kept = torch.empty((count, *shape), dtype=dtype, memory_format=layout, pin_memory=self._pin_memory)
            if kept.nbytes <= _MAX_BUFFER_BYTES:
                self._buffers[key] = kept
                while len(self._buffers) > _MAX_BUFFERS:
                    self._buffers.popitem(last=False)
        if key in self._buffers:
            self._buffers.move_to_end(key)
        return kept[:count]


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

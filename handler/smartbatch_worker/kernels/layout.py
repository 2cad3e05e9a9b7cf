"""How a batch lies in memory, for whoever makes one: what the convolutions want."""

from __future__ import annotations

import torch


def memory_format_of(shape: tuple[int, ...]) -> torch.memory_format:
    """How a batch of items of this shape lies in memory: images channels last."""
    return torch.channels_last if len(shape) == 3 else torch.contiguous_format

"""What the header of a sound says, before any of it is decoded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Header:
    """Of one file."""

    rate: int
    """Samples a second, of each channel."""
    num_channels: int
    num_frames: int | None
    """Samples of one channel; None where a stream was written whose end was not known yet."""

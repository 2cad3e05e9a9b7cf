"""The settings a study compares, and the order it measures them in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from smartbatch.server.batching import Batching

DEFAULT_PRECISION = "archive's"
"""The precision in the archive, not overridden."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One point of the grid."""

    batch_size: int
    max_delay_ms: int
    workers: int
    precision: str
    """fp32, bf16, fp16, or "archive's"."""
    format: str

    @property
    def batching(self) -> Batching:
        """How its model is registered."""
        return Batching(batch_size=self.batch_size, max_batch_delay_ms=self.max_delay_ms, workers=self.workers)

    @property
    def override(self) -> str | None:
        """The precision its server is told; None leaves it to the archive."""
        return None if self.precision == DEFAULT_PRECISION else self.precision

    @property
    def server_name(self) -> str:
        """Of its server, as part of a file's name."""
        return self.precision.replace("'", "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Every combination of these is measured.

    Raises:
        ValueError: an axis is empty or holds a value twice.
    """

    batch_sizes: Sequence[int]
    delays_ms: Sequence[int]
    workers: Sequence[int]
    precisions: Sequence[str]
    formats: Sequence[str]

    def __post_init__(self) -> None:
        for name in ("batch_sizes", "delays_ms", "workers", "precisions", "formats"):
            values = list(getattr(self, name))
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} must hold at least one value, none twice, got {values}")

    def settings(self) -> list[Setting]:
        """All points, batch size changing fastest."""
        axes = (self.precisions, self.formats, self.workers, self.delays_ms, self.batch_sizes)
        return [
            Setting(batch_size=size, max_delay_ms=delay, workers=count, precision=precision, format=name)
            for precision, name, count, delay, size in product(*axes)
        ]

    def warm_up(self) -> Setting:
        """What a new server is warmed up with: the largest batches, and of the rest what comes first."""
        return replace(self.settings()[0], batch_size=max(self.batch_sizes))

    def schedule(self, rounds: int) -> Iterator[tuple[int, Setting]]:
        """(round, point), interleaved: all points once, then all again.

        A machine that slows down meanwhile then slows every point alike.
        """
        for number in range(1, rounds + 1):
            for setting in self.settings():
                yield number, setting

    def label(self, setting: Setting) -> str:
        """What besides the batch size tells a point from others; empty where nothing does."""
        parts = []
        if len(self.precisions) > 1:
            parts.append(setting.precision)
        if len(self.formats) > 1:
            parts.append(setting.format)
        if len(self.workers) > 1:
            parts.append(f"{setting.workers} workers")
        if len(self.delays_ms) > 1:
            parts.append(f"delay {setting.max_delay_ms} ms")
        return ", ".join(parts)

"""Where to look next for the highest rate that holds: climb, halve the gap, confirm."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class KneeSearch:
    """Ask `next_rate`, measure it, tell `record`; until `next_rate` is None.

    A rate holds where it held every time it was tried; the knee has held `confirmations` times.
    """

    start: float
    """Requests a second."""
    growth: float = 1.5
    """Ratio of one rate to the one before while climbing."""
    tolerance: float = 0.05
    """The knee is known once the lowest rate that failed is at most this share above the highest that held."""
    confirmations: int = 2
    max_rate: float = 100_000.0
    min_rate: float = 0.1
    _held: Counter[float] = field(default_factory=Counter)
    _failed: set[float] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.start <= 0 or not self.start <= self.max_rate:
            raise ValueError(f"start rate must be above 0 and at most {self.max_rate:g}, got {self.start:g}")
        if self.growth <= 1 or self.tolerance <= 0:
            raise ValueError(
                f"growth must be above 1 and tolerance above 0, got {self.growth:g} and {self.tolerance:g}"
            )

    def record(self, rate: float, held: bool) -> None:
        """Tell the outcome of a rate."""
        if held:
            self._held[rate] += 1
        else:
            self._failed.add(rate)

    @property
    def lowest_failed(self) -> float | None:
        """The lowest rate that did not hold."""
        return min(self._failed, default=None)

    @property
    def highest_held(self) -> float | None:
        """The highest rate below every failed one that held."""
        limit = self.lowest_failed or math.inf
        return max((rate for rate in self._held if rate < limit), default=None)

    @property
    def is_bounded(self) -> bool:
        """Whether a rate failed: else the knee may lie above all that was tried."""
        return bool(self._failed)

    def next_rate(self) -> float | None:
        """The rate to try; None where there is nothing left to learn."""
        low, high = self.highest_held, self.lowest_failed
        if low is None:
            if high is None:
                return self.start
            return high / self.growth**2 if high / self.growth**2 >= self.min_rate else None
        if high is None and low < self.max_rate:
            return min(low * self.growth, self.max_rate)
        if high is not None and high / low > 1 + self.tolerance:
            return math.sqrt(low * high)
        return low if self._held[low] < self.confirmations else None

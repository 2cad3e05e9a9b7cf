"""What a forward of padded items costs, by what was measured: the price of padding against that of another forward.

    seconds ≈ fixed + n · (a · tokens + b · tokens²)      n items, each padded to so many tokens

The square is attention's. A forward's fixed part is what shorter micro-batches pay more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEAST = 1e-6

Timed = tuple[int, int, float]
"""One measured forward: items, tokens of each, seconds."""


@dataclass(frozen=True, slots=True)
class ForwardCost:
    """In tokens: one is what a token costs in a short item."""

    fixed: float = 64.0
    """Of a forward, whatever is in it; the default is what small models showed on CPUs."""
    square: float = 0.0
    """What makes a token dearer for each other one of its item."""

    def of_item(self, tokens: int) -> float:
        """What an item of so many tokens, padding included, adds to a forward."""
        return tokens + self.square * tokens * tokens


def fit(measured: Sequence[Timed]) -> ForwardCost:
    """The cost that explains what was measured with the least relative error; the default where nothing does."""
    lengths = {tokens for _, tokens, _ in measured}
    if len({num_items for num_items, _, _ in measured}) < 2:
        return ForwardCost()
    rows = [[1.0, n * tokens, n * tokens * tokens] for n, tokens, _ in measured]
    seconds = np.array([taken for _, _, taken in measured])
    shares = np.array(rows) / seconds[:, None]
    used = [0, 1, 2] if len(lengths) > 1 else [0, 1]  # at one length, tokens and their square tell the same
    while True:
        found = np.linalg.lstsq(shares[:, used], np.ones(len(seconds)), rcond=None)[0]
        if not (found < 0).any():
            break
        # Nothing costs less than nothing.
        used = [which for which, value in zip(used, found, strict=True) if value >= 0]
    by_term = dict(zip(used, map(float, found), strict=True))
    fixed, token, square = (by_term.get(term, 0.0) for term in range(3))
    # Where a token costs next to nothing, what was measured says nothing of padding.
    return ForwardCost() if token <= _LEAST * max(fixed, square) else ForwardCost(fixed / token, square / token)

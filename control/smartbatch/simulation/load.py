"""When requests come: from clients that each wait for their answer, or whether or not anybody is answered."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Clients that send the next request when the last one is answered."""

    users: int
    think_s: float = 0.0
    """Seconds between an answer and the client's next request."""

    def __post_init__(self) -> None:
        if self.users < 1:
            raise ValueError(f"users must be at least 1, got {self.users}")
        if self.think_s < 0:
            raise ValueError(f"think_s must be at least 0, got {self.think_s:g}")

    def __str__(self) -> str:
        """For people."""
        return f"{self.users} clients"


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Requests at given times, whatever becomes of them."""

    times_s: Sequence[float]
    """Ascending, from 0."""

    def __str__(self) -> str:
        """For people."""
        return f"{self.requests_per_s:.4g} requests/s"

    @property
    def requests_per_s(self) -> float:
        """On average, from the first to the last."""
        span_s = self.times_s[-1] - self.times_s[0] if self.times_s else 0.0
        return (len(self.times_s) - 1) / span_s if span_s > 0 else float(len(self.times_s))

    @classmethod
    def poisson(cls, rate: float, num_requests: int, seed: int = 0) -> OpenLoop:
        """Random arrivals, `rate` a second."""
        if rate <= 0:
            raise ValueError(f"rate must be above 0, got {rate:g}")
        draw = random.Random(seed).expovariate
        return cls(tuple(accumulate(draw(rate) for _ in range(num_requests))))


Load = ClosedLoop | OpenLoop

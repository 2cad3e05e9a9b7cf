"""How long a batch takes: the forward by its items, what is done a request, and what else wants the same cores."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

SERIAL_AT_MOST = 0.6
"""Of the shortest forward."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a registration says, and the handler's threads."""

    batch_size: int
    max_batch_delay_ms: int
    workers: int
    threads: int | None = None
    """Of each worker's forward; None: the cores, shared among the workers that compute."""
    handler: tuple[tuple[str, str], ...] = ()
    """Of the handler's configuration, what is to differ from what is registered; costs are of one such choice."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 1:
            raise ValueError(f"batch size and workers must be at least 1, got {self.batch_size} and {self.workers}")


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Of one model on one machine."""

    cores: int
    forward_s: Mapping[int, float]
    """Seconds of one forward on `forward_threads` threads, by its items."""
    forward_threads: int = 1
    micro_batch: int
    """Most items of a forward."""
    items: float = 1.0
    """Of a request."""
    decode_s: float = 0.0
    """CPU seconds of reading a request's body."""
    request_s: float = 0.0
    """The same of writing its answer."""
    batch_s: float = 0.0
    """Of a batch, whatever its size."""
    edge_s: float = 0.0
    """Of a request's latency, what is spent outside the worker and the queue when nothing else is going on."""
    edge_cpu_s: float = 0.0
    """CPU seconds a request costs beside the workers: the frontend's, and those of clients on the same machine."""
    waits: float = 0.0
    """Of a forward's seconds, the share for which it waits (a network, a file, a lock) and takes no core."""
    spread: float = 0.0
    """How much equal batches differ in time: the standard deviation of the logarithm."""

    def __post_init__(self) -> None:
        if not self.forward_s or min(self.forward_s.values()) < 0 or min(self.forward_s) < 1:
            raise ValueError(f"forward_s must give seconds for one size from 1 on, got {dict(self.forward_s)}")
        if not 0 <= self.waits <= 1:
            raise ValueError(f"waits must be a share from 0 to 1, got {self.waits}")

    @cached_property
    def serial_s(self) -> float:
        """Of a forward, what more threads do not divide among them: where the line through its times meets 0 items."""
        if len(self.forward_s) < 2:
            return 0.0
        slope, start = statistics.linear_regression(list(self.forward_s), list(self.forward_s.values()))
        return min(max(0.0, start), SERIAL_AT_MOST * min(self.forward_s.values())) if slope > 0 else 0.0

    def forward(self, items: float) -> float:
        """Seconds of one forward on `forward_threads` threads.

        Between two measured sizes on the line through both; beyond the largest an item costs what it does there; below
        the smallest a forward costs what that one does.
        """
        sizes = sorted(self.forward_s)
        at = bisect_left(sizes, items)
        if at == len(sizes):
            return self.forward_s[sizes[-1]] * items / sizes[-1]
        high = sizes[at]
        if at == 0 or high == items:
            return self.forward_s[high]
        low = sizes[at - 1]
        share = (items - low) / (high - low)
        return self.forward_s[low] * (1 - share) + self.forward_s[high] * share

    def batch(self, num_requests: int) -> tuple[float, float]:
        """Seconds of a batch that only one thread works at, and seconds that threads divide among them."""
        forwards = [seconds * (1 - self.waits) for seconds in self._forwards(num_requests)]
        serial_s = min(self.serial_s * (1 - self.waits), min(forwards, default=0.0))
        divided_s = sum(seconds - serial_s for seconds in forwards) * self.forward_threads
        alone_s = len(forwards) * serial_s + num_requests * self.request_s + self.batch_s
        return alone_s, divided_s + num_requests * self.decode_s

    def waiting(self, num_requests: int) -> float:
        """Seconds of a batch in which it takes no core."""
        return self.waits * sum(self._forwards(num_requests)) if self.waits else 0.0

    def _forwards(self, num_requests: int) -> list[float]:
        """Seconds of each forward of a batch."""
        whole, rest = divmod(num_requests * self.items, self.micro_batch)
        return [self.forward(self.micro_batch)] * int(whole) + ([self.forward(rest)] if rest > 1e-9 else [])

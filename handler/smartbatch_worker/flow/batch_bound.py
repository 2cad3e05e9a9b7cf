"""How many requests a batch may hold so that it is answered within a target, learned from the batches that were.

    seconds ≈ (a · requests + b) · spread        by least squares over the last batches

A batch is answered as one, so cutting it into forwards makes no part of it sooner: only fewer requests do. What this
says is told to the frontend, whose queue hands over no more.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence

REMEMBERED = 24
"""Batches; older ones were of another load."""
TOLERATED = 1
"""Of those, that may be late: 1 in 24 is within p95."""
FAR = 1.3
"""A batch this many times over the target is no tail: fewer requests at once."""
GROWS_AFTER = 8
"""Full batches in time, one after the other, until a bound that was cut may grow by a tenth."""
ROOM = 0.95
"""Of the target, what is planned for."""

Timings = Callable[[], Sequence[Mapping[int, float]]]


class BatchBound:
    """Told of each batch; `limit` is how many requests the next may hold.

    Args:
        target_s: for 95 of 100 batches.
        most: the registered batch size.
        timings: seconds of a forward by its items, for each shape that was measured by now; what more requests than
            were seen yet would take is told by their proportions.
    """

    def __init__(self, target_s: float, most: int, timings: Timings = tuple) -> None:
        self._target_s, self._most, self._timings = target_s, most, timings
        self._recent: deque[tuple[int, float]] = deque(maxlen=REMEMBERED)
        self._ceiling, self._num_good = most, 0
        self._items = 1.0
        self.limit = most

    @property
    def cannot(self) -> float | None:
        """Seconds that a request alone takes where that misses the target, so that no bound can meet it; else None."""
        alone = [seconds for count, seconds in self._recent if count == 1]
        is_known = self.limit == 1 and len(alone) >= GROWS_AFTER
        return statistics.median(alone) if is_known and statistics.median(alone) > self._target_s else None

    def took(self, num_requests: int, num_items: int, seconds: float) -> bool:
        """A batch was answered; whether it was late.

        Args:
            num_requests: of the batch, 1 or more.
            num_items: of all of them.
            seconds: until all were answered.
        """
        self._recent.append((num_requests, seconds))
        self._items += 0.1 * (num_items / num_requests - self._items)
        is_late = seconds > self._target_s
        late = [count for count, spent in self._recent if spent > self._target_s and count > 1]
        if is_late and num_requests > 1:
            self._num_good = 0
            if seconds > FAR * self._target_s:
                self._cut(math.floor(num_requests * ROOM * self._target_s / seconds))
            elif len(late) > TOLERATED:
                self._cut(math.floor(0.9 * min(num_requests, self.limit)))
        elif num_requests >= self._ceiling:
            self._num_good += 1
            if self._num_good >= GROWS_AFTER:
                self._num_good = 0
                self._ceiling = min(self._most, self._ceiling + max(1, self._ceiling // 10))
        self.limit = max(1, min(self._ceiling, self._fitting()))
        return is_late

    def _cut(self, requests: int) -> None:
        self._ceiling = max(1, min(self._ceiling, requests))

    def _fitting(self) -> int:
        """The most requests that the line through the last batches puts within the target."""
        a, b = self._line()
        off = sorted(seconds / (a * count + b) for count, seconds in self._recent)
        spread = max(1.0, off[math.ceil(0.95 * len(off)) - 1 - TOLERATED]) if len(off) > TOLERATED + 1 else 1.0
        left_s = ROOM * self._target_s / spread - b
        return self._most if a * self._most <= left_s else max(0, math.floor(left_s / a))

    def _line(self) -> tuple[float, float]:
        """Seconds of each request, and of a batch whatever it holds; neither below 0."""
        points = [(float(count), seconds) for count, seconds in self._recent]
        counts = {count for count, _ in points}
        if max(counts) < 2 * min(counts):  # too much alike to tell the one from the other
            points += self._proportions(points)
        if len({count for count, _ in points}) < 2:
            # Nothing tells how more would do: as if they shared nothing.
            return statistics.fmean(seconds / count for count, seconds in points), 0.0
        slope, start = statistics.linear_regression(*zip(*points, strict=True))
        if slope <= 0:
            return 1e-9, statistics.fmean(seconds for _, seconds in points)
        if start < 0:
            return statistics.fmean(seconds / count for count, seconds in points), 0.0
        return slope, start

    def _proportions(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        """Other numbers of requests, by what forwards were measured to cost, as fast as those that were seen."""
        measured = max(self._timings(), key=len, default={})
        if len(measured) < 2:
            return []
        factor = statistics.median(seconds / _forwards_s(measured, count * self._items) for count, seconds in points)
        counts = {2**power for power in range(10) if 2**power <= self._most} | {self._most}
        return [(float(count), factor * _forwards_s(measured, count * self._items)) for count in sorted(counts)]


def _forwards_s(measured: Mapping[int, float], items: float) -> float:
    """Seconds of as many forwards of the best size as it takes."""
    best = min(measured, key=lambda size: measured[size] / size)
    if items >= best:
        return measured[best] * items / best
    sizes = sorted(measured)
    at = bisect_left(sizes, items)
    if at == 0 or sizes[at] == items:
        return measured[sizes[at]]
    low, high = sizes[at - 1], sizes[at]
    share = (items - low) / (high - low)
    return measured[low] * (1 - share) + measured[high] * share

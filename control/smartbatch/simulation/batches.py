"""Batches as TorchServe forms them, replayed.

A worker that is free takes the model's lock, waits for a request, and then for others: at most the delay in all, from
the first one on, in whole milliseconds of the clock. So a backlog is drained without waiting, and a delay of 0 caps
batches at two. While one worker gathers, no other does.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass

from smartbatch.simulation.costs import Costs, Setting
from smartbatch.simulation.load import ClosedLoop, Load

WARM_UP_SHARE = 0.25
"""Of the requests: the first ones find an empty server."""
OVERSUBSCRIBED = 1.3
"""By how much a batch is slower yet than its share of the cores, where threads of several workers take turns on it."""


_EPSILON = 1e-9


@dataclass(slots=True, eq=False)
class _Batch:
    """One that is computed."""

    arrived: list[float]
    left_s: float
    """Seconds that one thread alone on a core would still take."""
    divided: float
    """The share of it that more threads divide among them."""

    def slowness(self, threads: int) -> float:
        """Seconds for one of those, on so many threads (Amdahl)."""
        return 1.0 - self.divided + self.divided / threads


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a load met; latencies in seconds, as the client sees them."""

    requests_per_s: float
    p50_s: float
    p95_s: float
    avg_batch_size: float
    num_refused: int
    """Of an open loop: those that found the queue full."""


def simulate(
    load: Load, setting: Setting, costs: Costs, *, num_requests: int = 1000, queue_capacity: int = 1000
) -> Outcome:
    """Serve `num_requests` and say how that went.

    Args:
        load: an open loop ends sooner where it has fewer.
        setting: of the server.
        costs: of the model.
        num_requests: to answer.
        queue_capacity: requests that may wait; of an open loop, one more is refused.
    """
    return _Server(load, setting, costs, queue_capacity).run(num_requests)


class _Server:
    """The server's state at `_now`; each step goes to the next moment at which something changes."""

    def __init__(self, load: Load, setting: Setting, costs: Costs, queue_capacity: int) -> None:
        self._setting, self._costs = setting, costs
        self._is_closed = isinstance(load, ClosedLoop)
        self._away_s = costs.edge_s + (load.think_s if isinstance(load, ClosedLoop) else 0.0)
        gap_s = costs.edge_cpu_s / costs.cores  # clients and frontend send one after the other
        times = [k * gap_s for k in range(load.users)] if isinstance(load, ClosedLoop) else list(load.times_s)
        self._waiting = times  # arrivals, past and to come: ascending, so a heap
        self._capacity = queue_capacity
        self._now = 0.0
        self._idle = setting.workers
        self._computing: list[_Batch] = []
        self._held: list[tuple[float, int, _Batch]] = []
        """Batches that wait for something else than a core: until when, a number to tell equals by, and which."""
        self._gathered: list[float] = []
        self._deadline = math.inf  # of the batch that is gathered
        self._left_ms = 0
        self._outside = 0  # requests that frontend and clients have in their hands, one after the other
        self._outside_work = 0.0  # CPU seconds that the first of them still takes
        self._work: dict[int, tuple[float, float]] = {}
        self._luck = random.Random(0).gauss
        self._num_held = 0
        self.latencies: list[float] = []
        self.served: list[tuple[float, int]] = []
        self.num_refused = 0

    def run(self, num_requests: int) -> Outcome:
        """Form and serve batches until enough are answered."""
        while len(self.latencies) < num_requests and self._has_work:
            self._gather()
            speeds = self._speeds()
            self._pass_until(self._next_moment(*speeds), *speeds)
            for batch in [one for one in self._computing if one.left_s <= _EPSILON]:
                self._answer(batch)
        return _outcome(self.latencies, self.served, self.num_refused)

    @property
    def _has_work(self) -> bool:
        """Somebody waits, is answered, or will send again; of an open loop, nobody sends again."""
        in_hand = self._waiting or self._gathered or self._computing or self._held
        return bool(in_hand or (self._is_closed and self._outside))

    def _gather(self) -> None:
        """Whatever of the present batch can be decided now."""
        while self._idle:
            if not self._gathered:
                if not self._is_closed:
                    self._refuse()
                if not self._waiting or self._waiting[0] > self._now:
                    return
                self._gathered.append(heapq.heappop(self._waiting))
                self._left_ms = self._setting.max_batch_delay_ms
                self._deadline = self._now + max(0, self._left_ms) / 1000
                self._last = self._now
            while len(self._gathered) < self._setting.batch_size and self._waiting and self._waiting[0] <= self._now:
                self._gathered.append(heapq.heappop(self._waiting))
                self._left_ms -= int(self._now * 1000) - int(self._last * 1000)
                self._last = self._now
                self._deadline = self._now + max(0, self._left_ms) / 1000
                if self._left_ms <= 0:
                    break
            is_full = len(self._gathered) == self._setting.batch_size
            if not (is_full or self._now >= self._deadline - _EPSILON):
                return
            self._hand_over()

    def _hand_over(self) -> None:
        """A worker computes what was gathered."""
        count = len(self._gathered)
        work = self._work.get(count)
        if work is None:
            work = self._work[count] = self._costs.batch(count)
        luck = math.exp(self._luck(0.0, self._costs.spread)) if self._costs.spread else 1.0
        serial_s, divided_s = work
        cpu_s = serial_s + divided_s
        batch = _Batch(self._gathered, luck * cpu_s, divided_s / cpu_s if cpu_s else 0.0)
        if self._costs.waits:
            self._num_held += 1
            heapq.heappush(self._held, (self._now + luck * self._costs.waiting(count), self._num_held, batch))
        else:
            self._computing.append(batch)
        self._gathered, self._deadline = [], math.inf
        self._idle -= 1
        if not self._is_closed:
            self._add_outside(count)

    def _answer(self, batch: _Batch) -> None:
        """Its worker is free, and its clients send again."""
        costs, count = self._costs, len(batch.arrived)
        self._computing.remove(batch)
        self._idle += 1
        self.latencies += [self._now - arrived + costs.edge_s for arrived in batch.arrived]
        self.served.append((self._now, count))
        if self._is_closed:
            if costs.edge_cpu_s:
                self._add_outside(count)
            else:
                for _ in range(count):
                    heapq.heappush(self._waiting, self._now + self._away_s)

    def _add_outside(self, count: int) -> None:
        if not self._outside:
            self._outside_work = self._costs.edge_cpu_s
        self._outside += count

    def _speeds(self) -> tuple[float, int, float]:
        """What each thread gets of a core, how many a worker has, and how fast all else goes, in cores."""
        cores, busy = self._costs.cores, len(self._computing)
        outside = min(cores, self._outside)
        if not busy:
            return 1.0, 1, float(outside)
        threads = self._setting.threads or max(1, cores // busy)
        share = min(1.0, cores / (busy * threads + outside))
        slower = OVERSUBSCRIBED if self._setting.threads and busy * threads > cores else 1.0
        return share / slower, min(threads, cores), share * outside

    def _next_moment(self, share: float, threads: int, outside: float) -> float:
        """When a batch is done, a request comes for the one that is gathered, or its delay is over."""
        moments = [self._now + batch.left_s * batch.slowness(threads) / share for batch in self._computing]
        if self._held:
            moments.append(self._held[0][0])
        if self._idle:
            moments.append(self._deadline)
            if self._waiting:
                moments.append(self._waiting[0])
            if self._outside and self._is_closed:
                moments.append(self._now + self._outside_work / outside + _EPSILON)
        elif self._outside:  # then the workers have the cores to themselves
            left = self._outside_work + (self._outside - 1) * self._costs.edge_cpu_s
            moments.append(self._now + left / outside)
        return max(self._now, min(moments, default=self._now))

    def _pass_until(self, moment: float, share: float, threads: int, outside: float) -> None:
        """What is worked on goes on until then."""
        passed = moment - self._now
        for batch in self._computing:
            batch.left_s -= passed * share / batch.slowness(threads)
        done = passed * outside
        while self._outside and self._outside_work <= done + _EPSILON:
            if self._is_closed:
                at = self._now + self._outside_work / outside
                heapq.heappush(self._waiting, at + self._away_s)
            self._outside -= 1
            self._outside_work += self._costs.edge_cpu_s
        self._outside_work -= done
        self._now = moment
        while self._held and self._held[0][0] <= moment + _EPSILON:
            self._computing.append(heapq.heappop(self._held)[2])

    def _refuse(self) -> None:
        """Those that found the queue full: of all that have come by now, the last ones."""
        if len(self._waiting) <= self._capacity:
            return
        come = sorted(arrived for arrived in self._waiting if arrived <= self._now)
        refused = len(come) - self._capacity
        if refused > 0:
            self._waiting = come[: self._capacity] + sorted(a for a in self._waiting if a > self._now)
            self.num_refused += refused


def _outcome(latencies: list[float], served: list[tuple[float, int]], num_refused: int) -> Outcome:
    """The figures, without the first requests; the rate between the ends of two batches, so that none counts in part.

    Args:
        latencies: in the order in which batches were done.
        served: when each batch was done, and its size.
        num_refused: as in Outcome.
    """
    first = int(len(latencies) * WARM_UP_SHARE)
    kept = sorted(latencies[first:])
    answered, counted, begun = 0, 0, 0.0
    for done, size in served:
        answered += size
        if answered > first:
            counted += size
        else:
            begun = done
    ended = served[-1][0]
    return Outcome(
        requests_per_s=counted / (ended - begun) if ended > begun else math.inf,
        p50_s=kept[len(kept) // 2],
        p95_s=kept[min(len(kept) - 1, int(0.95 * len(kept)))],
        avg_batch_size=len(latencies) / len(served),
        num_refused=num_refused,
    )

"""How many workers a rate needs: each number within the bounds is replayed; the fewest that keep the objective win."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from smartbatch.simulation.batches import Outcome, simulate
from smartbatch.simulation.costs import Costs, Setting
from smartbatch.simulation.fit import Observed, counted
from smartbatch.simulation.load import OpenLoop

STEP = 1.1
"""Rates are rounded up to powers of this, so that one that hardly changes is replayed once."""
REPLAYED_S = 8.0
LEAST_REPLAYED, MOST_REPLAYED = 80, 400
"""Requests of a replay."""
AS_GOOD = 1.1
"""Where none keeps the objective: of those whose p95 is within this of the best, the fewest workers."""
CHANGED = 1.25
"""Costs are read again where the rate, or the size of batches, has changed by more than that."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Fewest and most workers."""

    fewest: int
    most: int

    def clip(self, workers: int) -> int:
        """Within them."""
        return min(self.most, max(self.fewest, workers))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a rate needs, by the model of the server."""

    workers: int
    p95_s: float
    """Predicted, with so many."""
    is_met: bool
    """The objective is; where it is not, no number within the bounds keeps it."""


@dataclass
class Planner:
    """The model of the server, fed with what is seen.

    Args:
        objective_s: for p95.
        bounds: of the answer.
        queue_capacity: requests that may wait.
    """

    objective_s: float
    bounds: Bounds
    queue_capacity: int = 1000
    costs: Costs | None = None
    """None until enough was seen."""
    _setting: Setting | None = field(init=False, default=None)
    _learned: Observed | None = field(init=False, default=None)
    _outcomes: dict[tuple[int, int], Outcome] = field(init=False, default_factory=dict)

    def learn(self, observed: Observed) -> None:
        """Read the costs from what was seen, where that is unlike what they were read from."""
        old = self._learned
        if old is not None and old.setting == observed.setting and not _differ(old, observed):
            return
        self._learned, self._setting = observed, observed.setting
        self.costs = counted(observed)
        self._outcomes.clear()

    def plan(self, requests_per_s: float) -> Plan | None:
        """The fewest workers that keep the objective at that rate; None while nothing is known of the costs."""
        if requests_per_s <= 0:
            return Plan(workers=self.bounds.fewest, p95_s=0.0, is_met=True)
        if self.costs is None:
            return None
        found: dict[int, float] = {}
        for workers in range(self.bounds.fewest, self.bounds.most + 1):
            outcome = self._outcome(requests_per_s, workers)
            if outcome.p95_s <= self.objective_s and not outcome.num_refused:
                return Plan(workers=workers, p95_s=outcome.p95_s, is_met=True)
            found[workers] = outcome.p95_s
        limit_s = AS_GOOD * min(found.values())
        workers = next(count for count, p95_s in found.items() if p95_s <= limit_s)
        return Plan(workers=workers, p95_s=found[workers], is_met=False)

    def helps(self, requests_per_s: float, workers: int) -> bool:
        """Whether one more than so many would answer sooner; where nothing is known it is worth a try."""
        if self.costs is None or requests_per_s <= 0:
            return self.costs is None
        now, more = (self._outcome(requests_per_s, count).p95_s for count in (workers, workers + 1))
        return more * AS_GOOD < now or now <= self.objective_s

    def _outcome(self, requests_per_s: float, workers: int) -> Outcome:
        step = math.ceil(math.log(requests_per_s, STEP))
        key = (step, workers)
        if key not in self._outcomes:
            assert self.costs is not None
            assert self._setting is not None
            rate = STEP**step
            count = round(min(MOST_REPLAYED, max(LEAST_REPLAYED, rate * REPLAYED_S)))
            setting = dataclasses.replace(self._setting, workers=workers)
            load = OpenLoop.poisson(rate, count)
            self._outcomes[key] = simulate(
                load, setting, self.costs, num_requests=count, queue_capacity=self.queue_capacity
            )
        return self._outcomes[key]


def _differ(old: Observed, new: Observed) -> bool:
    pairs = ((old.requests_per_s, new.requests_per_s), (old.avg_batch_size, new.avg_batch_size))
    return any(max(pair) > CHANGED * min(pair) for pair in pairs)

"""Settings side by side: what each would do under the same load."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from smartbatch.simulation.batches import Outcome, simulate
from smartbatch.simulation.costs import Costs, Setting
from smartbatch.simulation.load import ClosedLoop, Load

NUM_REQUESTS = 400
MOST_REQUESTS = 2000
"""Of an open loop, which is replayed as far as it goes: its bursts may come late."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One setting and what the model says of it."""

    setting: Setting
    outcome: Outcome


def grid(batch_sizes: Iterable[int], delays_ms: Iterable[int], workers: Iterable[int]) -> Iterator[Setting]:
    """Every combination."""
    for size, delay_ms, count in product(batch_sizes, delays_ms, workers):
        yield Setting(batch_size=size, max_batch_delay_ms=delay_ms, workers=count)


def score(settings: Iterable[Setting], load: Load, costs: Costs, slo_p95_s: float | None = None) -> list[Scored]:
    """Best first: those that keep the objective by their rate, the others by how far they are from it.

    Args:
        settings: to compare.
        load: that each would serve.
        costs: of the model.
        slo_p95_s: the objective; None: the rate alone counts. Of equal rates, as an open loop's are, the lower p95 is
            first.
    """
    count = NUM_REQUESTS if isinstance(load, ClosedLoop) else min(len(load.times_s), MOST_REQUESTS)
    scored = [Scored(each, simulate(load, each, costs, num_requests=count)) for each in settings]

    def rank(one: Scored) -> tuple[float, ...]:
        outcome = one.outcome
        missed_s = 0.0 if slo_p95_s is None else max(0.0, outcome.p95_s - slo_p95_s)
        return (missed_s, outcome.num_refused, -round(outcome.requests_per_s, 1), outcome.p95_s)

    return sorted(scored, key=rank)

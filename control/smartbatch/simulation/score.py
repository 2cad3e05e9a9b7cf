"""Settings side by side: what each would do under the same load."""

from __future__ import annotations

import dataclasses
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
    replayed: dict[Setting, Outcome] = {}

    def outcome(setting: Setting) -> Outcome:
        same = _as_met(setting, load)
        if same not in replayed:
            replayed[same] = simulate(load, same, costs, num_requests=count)
        return replayed[same]

    scored = [Scored(each, outcome(each)) for each in settings]

    def rank(one: Scored) -> tuple[float, ...]:
        outcome = one.outcome
        missed_s = 0.0 if slo_p95_s is None else max(0.0, outcome.p95_s - slo_p95_s)
        return (missed_s, outcome.num_refused, -round(outcome.requests_per_s, 1), outcome.p95_s)

    return sorted(scored, key=rank)


def _as_met(setting: Setting, load: Load) -> Setting:
    """One for all that a load cannot tell apart: batches that its clients never fill, the delay of batches of one."""
    size = min(setting.batch_size, load.users + 1) if isinstance(load, ClosedLoop) else setting.batch_size
    delay_ms = setting.max_batch_delay_ms if size > 1 else 1
    return dataclasses.replace(setting, batch_size=size, max_batch_delay_ms=delay_ms)

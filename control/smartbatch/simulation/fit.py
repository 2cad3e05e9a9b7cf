"""What a running server's figures say about its costs.

The forward's shape over its items is what a worker measured when it loaded the model; how much CPU it and the rest
really take comes from what the server did meanwhile. Then two numbers are moved until the model, asked for the setting
that was watched, gives what was seen: where clients wait for their answers and ask again at once the workers' speed,
else the time spent outside the workers; and the spread.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from smartbatch.simulation.batches import Outcome, simulate
from smartbatch.simulation.costs import Costs, Setting
from smartbatch.simulation.load import ClosedLoop, Load, OpenLoop

NUM_ROUNDS = 5
SPREADS = (0.0, 0.05, 0.1)
"""A p95 that these do not explain was some hiccup of the moment, which says nothing of other settings."""
LEAST_EDGE_S = 0.0005
ERROR = 0.4
"""Nine of ten predictions of a rate or a p50 are within this of what was measured afterwards: docs/tuning.md."""
FEW = 1.5
"""Requests in the server at a time: of fewer, nobody can tell whether they wait for each other."""
BUSY = 0.85
"""Workers that compute for more of the time than this are taken to have a backlog."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What one model of a server did over some seconds."""

    setting: Setting
    cores: int
    requests_per_s: float
    avg_batch_size: float
    items: float
    """Of a request, on average."""
    avg_forward_size: float
    """Items of a forward, on average."""
    mean_s: float
    """A request's latency; the next two are of the same."""
    p50_s: float
    p95_s: float
    queue_s: float
    """Seconds that a request waited for a worker, on average."""
    stage_s: Mapping[str, float]
    """Seconds a batch spent in `decode`, `stack`, `forward` and `encode`."""
    measured_forward_s: Mapping[int, float]
    """Seconds of a forward by its items, as a worker timed them; empty where none did."""
    measured_threads: int
    """On how many threads it did."""
    micro_batch: int
    worker_cpu_s: float | None
    """CPU seconds of all workers, a request; None where their processes cannot be seen."""
    edge_cpu_s: float | None
    """CPU seconds of the frontend, and of clients on the same machine, a request."""
    waits: float = 0.0
    """Of a batch's time, the share in which its worker takes no core, though there is one."""
    is_crowded: bool = False
    """Server and clients take nearly all cores."""

    @property
    def busy(self) -> float:
        """The share of the time for which a worker computes."""
        return self.requests_per_s / self.avg_batch_size * sum(self.stage_s.values()) / self.setting.workers

    @property
    def in_flight(self) -> float:
        """Requests in the server, on average: as many as come in the time that one stays (Little)."""
        return self.requests_per_s * self.mean_s

    @property
    def is_saturated(self) -> bool:
        """Workers compute nearly all the time, or wait for each other's cores."""
        return self.busy > BUSY or self.is_crowded

    def loads(self, num_requests: int = 1000) -> list[Load]:
        """What may have been served: clients that wait, where workers are busy all the time.

        Else as many as are in a batch, or in the server, may each wait for their answer, who come together then, and
        pause before they ask again: what a request's time leaves of the time in which each of them asks once (the
        interactive response time law). Or requests came by chance, at the rate that was seen.
        """
        in_flight = self.in_flight
        if self.is_saturated:
            return [ClosedLoop(max(1, round(in_flight)))]
        waiting = {round(in_flight), math.ceil(in_flight), round(self.avg_batch_size)} if in_flight >= FEW else set()
        by_chance = OpenLoop.poisson(self.requests_per_s, num_requests)
        return [by_chance, *(ClosedLoop(users, self._pause_s(users)) for users in sorted(waiting))]

    def _pause_s(self, users: int) -> float:
        """Between an answer and the next request of each of so many."""
        outside_s = users * (self.edge_cpu_s or 0.0) / self.cores
        return max(0.0, users / self.requests_per_s - self.mean_s - outside_s)


def explain(observed: Observed) -> tuple[Load, Costs]:
    """The load, of those that there may have been, and the costs, which explain best what was seen."""

    counted_s = counted(observed).edge_s

    def misses(explanation: tuple[Load, Costs]) -> float:
        """By how much its figures are off; and what it leaves to luck, or to time that nobody counted: with enough of
        either, any load explains anything."""
        load, costs = explanation
        found = simulate(load, observed.setting, costs)
        uncounted = abs(costs.edge_s - counted_s) / observed.p50_s
        return (
            costs.spread
            + uncounted
            + sum(
                abs(math.log(getattr(found, figure) / getattr(observed, figure)))
                for figure in ("requests_per_s", "avg_batch_size", "p50_s", "p95_s")
            )
        )

    explanations = [(load, _matching(observed, load)) for load in observed.loads()]
    load, costs = explanations[0] if len(explanations) == 1 else min(explanations, key=misses)
    return load, _half_believed(observed, costs)


def fit(observed: Observed, load: Load) -> Costs:
    """The costs that explain what was seen, as far as that is the server's and not the moment's.

    Args:
        observed: of the server.
        load: what it served meanwhile.
    """
    return _half_believed(observed, _matching(observed, load))


def _half_believed(observed: Observed, costs: Costs) -> Costs:
    """The workers' speed half of the way between what was counted and what was seen.

    CPU seconds that were counted and the rate are two measurements of it. What they differ by is partly what else ran
    on the cores just then: the middle of the two predicts what is seen a minute later best.
    """
    if observed.worker_cpu_s is None:
        return costs
    items = max(costs.forward_s)
    seen_s, counted_s = costs.forward_s[items], counted(observed).forward_s[items]
    return scaled(costs, math.sqrt(counted_s / seen_s)) if seen_s else costs


def _matching(observed: Observed, load: Load) -> Costs:
    """By which the replay gives what was seen."""
    costs = counted(observed)
    for _ in range(NUM_ROUNDS):
        found = simulate(load, observed.setting, costs)
        costs = _towards(costs, observed, load, found)
    return min(
        (dataclasses.replace(costs, spread=spread) for spread in SPREADS),
        key=lambda tried: abs(simulate(load, observed.setting, tried).p95_s - observed.p95_s),
    )


def counted(observed: Observed) -> Costs:
    """The costs as the server counts them, nothing moved: for where requests pile up, which no steady load explains."""
    threads = max(1, observed.cores // observed.setting.workers)
    stages_s = sum(observed.stage_s.values()) or 1.0
    batch = observed.avg_batch_size
    cpu_s = observed.worker_cpu_s or stages_s / batch * threads
    shape = dict(observed.measured_forward_s) or {
        max(1, round(observed.avg_forward_size)): observed.stage_s["forward"]
        * observed.avg_forward_size
        / (batch * observed.items)
    }
    costs = Costs(
        cores=observed.cores,
        forward_s=shape,
        forward_threads=observed.measured_threads if observed.measured_forward_s else threads,
        micro_batch=observed.micro_batch,
        items=observed.items,
        decode_s=cpu_s * observed.stage_s["decode"] / stages_s,
        request_s=observed.stage_s["encode"] / batch,
        batch_s=observed.stage_s["stack"],
        edge_s=max(LEAST_EDGE_S, observed.mean_s - observed.queue_s - stages_s),
        edge_cpu_s=observed.edge_cpu_s or 0.0,
        waits=observed.waits,
    )
    if observed.waits:
        # Next to nothing of a forward is CPU then, and how long it takes is what was seen.
        seen_s = observed.stage_s["forward"] * observed.avg_forward_size / (batch * observed.items)
        return scaled(costs, seen_s / costs.forward(observed.avg_forward_size), only_forward=True)
    forward_cpu_s = cpu_s * observed.stage_s["forward"] / stages_s
    serial_s = costs.serial_s
    divided_s = (costs.forward(observed.avg_forward_size) - serial_s) * costs.forward_threads
    predicted_s = (serial_s + divided_s) / observed.avg_forward_size * observed.items
    return scaled(costs, forward_cpu_s / predicted_s if predicted_s else 1.0, only_forward=True)


def _towards(costs: Costs, observed: Observed, load: Load, found: Outcome) -> Costs:
    """Closer to what was seen: the workers' speed by the rate of clients that wait, else the edge by the latency.

    Of clients that wait without a pause, the rate says how long an answer takes on average (Little): a latency says
    nothing more, and what is outside workers and queue is known by how much of it the server counts.
    """
    if isinstance(load, ClosedLoop) and not load.think_s:
        return scaled(costs, _bounded(found.requests_per_s / observed.requests_per_s))
    off_s = observed.p50_s - found.p50_s
    return dataclasses.replace(costs, edge_s=max(LEAST_EDGE_S, costs.edge_s + off_s / 2))


def scaled(costs: Costs, factor: float, *, only_forward: bool = False) -> Costs:
    """With the workers' times, or the forward's alone, so much longer."""
    forward_s = {items: seconds * factor for items, seconds in costs.forward_s.items()}
    if only_forward:
        return dataclasses.replace(costs, forward_s=forward_s)
    return dataclasses.replace(
        costs,
        forward_s=forward_s,
        decode_s=costs.decode_s * factor,
        request_s=costs.request_s * factor,
        batch_s=costs.batch_s * factor,
    )


def _bounded(factor: float) -> float:
    return min(2.0, max(0.5, factor))

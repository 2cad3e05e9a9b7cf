"""What a change of settings would bring, by the model of the server fitted to what was seen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from smartbatch.doctor.evidence import Evidence
from smartbatch.doctor.finding import Gain
from smartbatch.doctor.processes import CpuSeconds
from smartbatch.simulation.batches import Outcome, simulate
from smartbatch.simulation.costs import Costs, Setting
from smartbatch.simulation.fit import ERROR, Observed, explain, fit
from smartbatch.simulation.load import ClosedLoop, Load

LEAST_REQUESTS = 20
"""Of fewer, averages say little."""
IDLE_CPU = 0.5
"""Of one core, while it computes: a worker that takes less is waiting for something."""
CROWDED = 0.8
"""Of all cores: where a server and its clients take so much, whoever takes none waits for one."""


@dataclass(frozen=True)
class Prognosis:
    """The model of the server for one model of it; `of` says whether there is one.

    Args:
        observed: what was seen.
        capacity: of its queue.
        assumed: the load, where it is not to be found out.
    """

    observed: Observed
    capacity: int
    assumed: Load | None = None
    _outcomes: dict[Setting, Outcome] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, evidence: Evidence) -> Prognosis | None:
        """None where too little was seen: another handler, stock frontend, or next to no requests."""
        observed = observe(evidence)
        if observed is None:
            return None
        known = None if evidence.num_clients is None else ClosedLoop(evidence.num_clients)
        return cls(observed, max(1, evidence.queue_capacity), known)

    @cached_property
    def _explanation(self) -> tuple[Load, Costs]:
        load = self.assumed
        return explain(self.observed) if load is None else (load, fit(self.observed, load))

    @cached_property
    def cautious(self) -> Prognosis:
        """Of the load that asks for the least explanation: what few clients are taken to be may be other ones."""
        plainest = self.observed.loads()[0]
        if self.assumed is not None or self.load == plainest:
            return self
        return dataclasses.replace(self, assumed=plainest, _outcomes={})

    @property
    def load(self) -> Load:
        """As it was seen."""
        return self._explanation[0]

    @property
    def costs(self) -> Costs:
        """Fitted."""
        return self._explanation[1]

    @property
    def is_saturated(self) -> bool:
        """Clients wait for the workers: what these do faster is more requests a second."""
        return self.observed.is_saturated or isinstance(self.assumed, ClosedLoop)

    def outcome(self, setting: Setting) -> Outcome:
        """Of the load that was seen, with another setting; replayed once, however often it is asked for."""
        found = self._outcomes.get(setting)
        if found is None:
            found = simulate(self.load, setting, self.costs, queue_capacity=self.capacity)
            self._outcomes[setting] = found
        return found

    @property
    def now(self) -> Outcome:
        """With the present one: the change is told from what the model says of both."""
        return self.outcome(self.observed.setting)

    def gain(self, setting: Setting) -> Gain:
        """Requests/s where the workers are at their limit, else the latency of most requests."""
        then = self.outcome(setting)
        if self.is_saturated:
            seen, ratio = self.observed.requests_per_s, then.requests_per_s / self.now.requests_per_s
            return _gain("requests/s", seen, ratio)
        return _gain("p50, ms", 1000 * self.observed.p50_s, then.p50_s / self.now.p50_s)

    def improvement(self, setting: Setting) -> float:
        """By what factor that is better; 1 is no better."""
        then = self.outcome(setting)
        if self.is_saturated:
            return then.requests_per_s / self.now.requests_per_s
        return self.now.p50_s / then.p50_s


def observe(evidence: Evidence) -> Observed | None:
    """The figures the model is fitted to; None where one of them is missing."""
    view, status, worker = evidence.view, evidence.status, evidence.worker
    if worker is None or evidence.mean_s is None or evidence.queue_s is None or view.avg_batch_size is None:
        return None
    if view.p50_s is None or view.p95_s is None or view.avg_forward_size is None or not view.stage_s:
        return None
    if evidence.requests < LEAST_REQUESTS or not status.workers:
        return None
    threads = evidence.config("threads")
    cores = evidence.server.cores or max(1, len(status.workers) * worker["threads"])
    answered = view.batches_per_s * view.avg_batch_size  # by workers
    cpu = evidence.cpu
    count = answered * evidence.seconds
    shapes = worker["micro_batch_ms_per_item"]
    shape = max(shapes, key=lambda name: len(shapes[name]), default=None)
    return Observed(
        setting=Setting(
            batch_size=status.batch_size,
            max_batch_delay_ms=status.max_batch_delay_ms,
            workers=len(status.workers),
            threads=None if threads in (None, "auto") else int(threads),
        ),
        cores=cores,
        requests_per_s=answered,
        avg_batch_size=view.avg_batch_size,
        items=evidence.items_per_request or 1.0,
        avg_forward_size=view.avg_forward_size,
        mean_s=evidence.mean_s,
        p50_s=view.p50_s,
        p95_s=view.p95_s,
        queue_s=evidence.queue_s,
        stage_s=view.stage_s,
        measured_forward_s={} if shape is None else _forward_s(shapes[shape]),
        measured_threads=max(1, cores // len(status.workers)),
        micro_batch=_micro_batch(evidence),
        worker_cpu_s=None if cpu is None else cpu.workers / count,
        edge_cpu_s=None if cpu is None else _edge_cpu_s(evidence, cpu) / count,
        waits=0.0 if cpu is None or worker["device"] != "cpu" else _waits(evidence, cpu, cores),
        is_crowded=cpu is not None and worker["device"] == "cpu" and _is_crowded(evidence, cpu, cores),
    )


def _waits(evidence: Evidence, cpu: CpuSeconds, cores: int) -> float:
    """Of a batch's time, the share in which its worker waits for something else than a core."""
    busy_s = evidence.view.batches_per_s * evidence.batch_s * evidence.seconds
    used = cpu.workers / busy_s if busy_s else 1.0
    return 0.0 if used >= IDLE_CPU or _is_crowded(evidence, cpu, cores) else 1.0 - used


def _is_crowded(evidence: Evidence, cpu: CpuSeconds, cores: int) -> bool:
    return cpu.total > CROWDED * cores * evidence.seconds


def _edge_cpu_s(evidence: Evidence, cpu: CpuSeconds) -> float:
    """Of the frontend, and of the clients where they are ours; what others on the machine do is not the requests'."""
    return (cpu.frontend or 0.0) + (cpu.own if evidence.num_clients is not None else 0.0)


def _forward_s(ms_per_item: Mapping[str, float]) -> dict[int, float]:
    return {int(size): int(size) * ms / 1000 for size, ms in ms_per_item.items()}


def _micro_batch(evidence: Evidence) -> int:
    """The most items of a forward."""
    worker = evidence.worker
    if worker is not None and worker["micro_batch"]:
        return max(worker["micro_batch"].values())
    configured = evidence.config("micro_batch")
    if isinstance(configured, int):
        return configured
    size = evidence.view.avg_forward_size or 1.0
    return max(evidence.status.batch_size, math.ceil(size))


def _gain(figure: str, before: float, ratio: float) -> Gain:
    """The change may be off by ERROR of the figure."""
    after = before * ratio
    return Gain(figure=figure, before=before, after=after, low=after * (1 - ERROR), high=after * (1 + ERROR))

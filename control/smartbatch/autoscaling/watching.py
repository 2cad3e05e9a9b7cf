"""What a model of a running server does now: a few seconds of looks at its metrics, and who serves it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from smartbatch_worker.contract import metrics as names

from smartbatch.autoscaling.policy import Seen
from smartbatch.doctor.evidence import Observer, Snapshot
from smartbatch.doctor.gain import observe
from smartbatch.errors import UsageError
from smartbatch.remote.endpoints import Endpoints
from smartbatch.simulation.fit import Observed
from smartbatch.watch.rates import view

LATELY_S = 8.0
LATENCY_S = 3.0
"""Of answers, whose p95 is judged."""
KEPT_S = 30.0
"""How far back is looked for enough requests to learn from."""
ASKED_S = 15.0
"""Workers that had not measured their forward when they were asked are asked again after this, in a quiet moment."""


@dataclass
class Watch:
    """One model of one server.

    Args:
        endpoints: of the server.
        model: its name.
    """

    endpoints: Endpoints
    model: str
    _observer: Observer = field(init=False)
    _looks: deque[Snapshot] = field(init=False, default_factory=deque)
    _changed_s: float = field(init=False, default=0.0)
    _asked_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._observer = Observer(self.endpoints, self.model)

    def start(self) -> None:
        """Look for the first time.

        Raises:
            UsageError: the figures that decide are not counted there.
            SmartBatchError: nothing answers, or there is no such model.
        """
        self._observer.start()
        self._observer.ask_workers()
        look = self._observer.snapshot()
        if not look.look.samples.named(names.QUEUE_REQUESTS, model=self.model):
            raise UsageError(
                "autoscale needs what SmartBatch's frontend counts (queues and latencies): start the server with "
                "`smartbatch serve`, without SMARTBATCH_FRONTEND=stock"
            )
        if self.num_workers and not self._observer.described[self.model]:
            raise UsageError(f"autoscale needs SmartBatch's handler, and no worker of {self.model} describes itself so")
        self._looks.append(look)
        self._changed_s = self._asked_s = look.look.taken_s

    @property
    def num_workers(self) -> int:
        """That there should be."""
        return self._observer.statuses[self.model].min_workers

    @property
    def queue_capacity(self) -> int:
        """Requests that may wait."""
        status = self._observer.statuses[self.model]
        return status.pending_requests + status.queue_remaining

    @property
    def cores(self) -> int | None:
        """Of the server; None where it is elsewhere."""
        (evidence,) = self._observer.between(self._looks[0], self._looks[-1])
        return evidence.server.cores

    def changed(self) -> None:
        """Workers were added or taken away: ask which there are, and forget what the others did.

        Raises:
            SmartBatchError: nothing answers, or the model is gone.
        """
        self._observer.ask_registered()
        look = self._observer.snapshot()
        self._looks.clear()
        self._looks.append(look)
        self._changed_s = look.look.taken_s

    def look(self) -> tuple[Seen, Observed | None]:
        """What happens now, and what can be learned from it; None where too little happened.

        Raises:
            NotRunningError: no metrics are to be had.
        """
        look = self._observer.snapshot()
        if self._num_ready(look) != self.num_workers:
            self._observer.ask_registered()  # somebody else scales, retunes, or a worker died
        self._looks.append(look)
        while len(self._looks) > 2 and self._age_s(1) > KEPT_S:
            self._looks.popleft()
        latest = view(self.model, self._back(LATENCY_S).look, look.look)
        seen = Seen(
            at_s=look.look.taken_s,
            workers=self.num_workers,
            ready=self._num_ready(look),
            now_per_s=self._rate(self._looks[-2]),
            lately_per_s=self._rate(self._back(LATELY_S)),
            answered_per_s=latest.rps,
            queued=self._queued(look),
            p95_s=latest.p95_s,
        )
        return seen, self._learned(seen)

    def _learned(self, seen: Seen) -> Observed | None:
        self._ask_again(seen)
        if len(self._looks) < 2:
            return None
        for before in list(self._looks)[-2::-1]:  # as late as there are requests enough, but no shorter than p95's
            if self._looks[-1].look.taken_s - before.look.taken_s >= LATENCY_S or before is self._looks[0]:
                (evidence,) = self._observer.between(before, self._looks[-1])
                observed = observe(evidence)
                if observed is not None:
                    return observed
        return None

    def _ask_again(self, seen: Seen) -> None:
        """What a lazy model's forward takes is known once it was loaded and measured."""
        known = self._observer.described.get(self.model, ())
        is_known = any(worker["loaded"] and not worker["measuring"] for worker in known)
        if is_known or seen.queued or not seen.ready or seen.at_s - self._asked_s < ASKED_S:
            return
        self._asked_s = seen.at_s
        self._observer.ask_workers()

    def _rate(self, before: Snapshot) -> float:
        """Requests that came, a second: those that were answered or refused, and those that wait now and did not."""
        now = self._looks[-1]
        seconds = now.look.taken_s - before.look.taken_s
        came = view(self.model, before.look, now.look).rps * seconds + self._queued(now) - self._queued(before)
        return max(0.0, came / seconds)

    def _back(self, seconds: float) -> Snapshot:
        """The look of that long ago, or the first since the last change."""
        for index in range(len(self._looks) - 2, -1, -1):
            if self._age_s(index) >= seconds:
                return self._looks[index]
        return self._looks[0]

    def _age_s(self, index: int) -> float:
        return self._looks[-1].look.taken_s - self._looks[index].look.taken_s

    def _num_ready(self, look: Snapshot) -> int:
        version = self._observer.statuses[self.model].version
        return round(look.look.samples.total(names.WORKERS, model=self.model, version=version, state="model_loaded"))

    def _queued(self, look: Snapshot) -> float:
        return look.look.samples.total(names.QUEUE_REQUESTS, model=self.model)

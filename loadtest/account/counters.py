"""The server's own counters, read from outside while a run goes on."""

from __future__ import annotations

from dataclasses import dataclass

from smartbatch.remote.scrape import Samples, histogram_quantile
from smartbatch_load.account.series import ServerSample
from smartbatch_worker.contract import metrics as names


def counters(samples: Samples, model: str, unix_s: float, queue_depth: float | None = None) -> ServerSample:
    """What a run needs of one scrape.

    Args:
        queue_depth: asked otherwise, for where the frontend's own figure is missing.
    """
    answered = samples.named(names.REQUESTS, model=model)
    seen = [s for s in samples.named(names.HTTP_REQUESTS, model=model) if s.labels["status"] != names.ABORTED]
    waiting = samples.named(names.QUEUE_REQUESTS, model=model)
    return ServerSample(
        unix_s=unix_s,
        requests=sum(s.value for s in answered),
        failures=sum(s.value for s in answered if not s.labels["status"].startswith("2")),
        batches=samples.total(names.BATCHES, model=model),
        batched_requests=samples.total(f"{names.BATCH_SIZE}_sum", model=model),
        queue_depth=sum(s.value for s in waiting) if waiting else queue_depth,
        answers=sum(s.value for s in seen) if seen else None,
    )


@dataclass(frozen=True, slots=True)
class ServerLatency:
    """Latency of the requests between two scrapes, as the frontend counts it; seconds, None where it does not."""

    p50_s: float | None
    p95_s: float | None


def latency_between(before: Samples, after: Samples, model: str) -> ServerLatency:
    """Quantiles of what the server's latency histogram gained."""
    labels = {"model": model, "outcome": names.SUCCESS}
    start = dict(before.buckets(names.REQUEST_SECONDS, **labels))
    gained = [(bound, count - start.get(bound, 0.0)) for bound, count in after.buckets(names.REQUEST_SECONDS, **labels)]
    return ServerLatency(histogram_quantile(gained, 0.50), histogram_quantile(gained, 0.95))

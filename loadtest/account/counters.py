"""The server's own counters, read from outside while a run goes on."""

from __future__ import annotations

from dataclasses import dataclass

from smartbatch.remote.scrape import Samples, histogram_quantile
from smartbatch_worker.contract import metrics as names

from loadtest.account.series import ServerSample

QUEUE_LATENCY = "ts_queue_latency_microseconds"
"""TorchServe's own counter: time every answered request spent waiting."""


def counters(samples: Samples, model: str, unix_s: float, queue_depth: float | None = None) -> ServerSample:
    """What a run needs of one scrape."""
    answered = samples.named(names.REQUESTS, ModelName=model)
    return ServerSample(
        unix_s=unix_s,
        requests=sum(s.value for s in answered),
        failures=sum(s.value for s in answered if not s.labels["status"].startswith("2")),
        batches=samples.total(names.BATCHES, ModelName=model),
        batched_requests=samples.total(f"{names.BATCH_SIZE}_sum", ModelName=model),
        queue_depth=queue_depth,
    )


@dataclass(frozen=True, slots=True)
class ServerLatency:
    """Latency of the requests between two scrapes, as the server's access log has it; seconds."""

    p50_s: float | None
    p95_s: float | None


def latency_between(before: Samples, after: Samples, model: str) -> ServerLatency:
    """Quantiles of what the server's latency histogram gained."""
    start = dict(before.buckets(names.REQUEST_SECONDS, ModelName=model))
    gained = [
        (bound, count - start.get(bound, 0.0)) for bound, count in after.buckets(names.REQUEST_SECONDS, ModelName=model)
    ]
    return ServerLatency(histogram_quantile(gained, 0.50), histogram_quantile(gained, 0.95))

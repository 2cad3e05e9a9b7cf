"""Read the Prometheus endpoint: samples, quantiles, and the five summary fields."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from smartbatch_worker.contract import metrics as names

from smartbatch.errors import NotRunningError


class Summary(TypedDict):
    """The five fields; latencies in seconds, end to end on the server.

    Requests are those that came over HTTP, refused ones included. Latencies are None before the first answer, and
    where the frontend runs as it came; then requests are those that a worker answered.
    """

    total_requests: int
    total_batches: int
    avg_batch_size: float | None
    p50_latency: float | None
    p95_latency: float | None


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of the exposition."""

    name: str
    labels: Mapping[str, str]
    value: float


class Samples:
    """All samples of one scrape."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._by_name: dict[str, list[Sample]] = {}
        for sample in samples:
            self._by_name.setdefault(sample.name, []).append(sample)

    def named(self, name: str, **labels: str) -> list[Sample]:
        """The samples called `name` whose labels include `labels`."""
        wanted = labels.items()
        return [s for s in self._by_name.get(name, ()) if wanted <= s.labels.items()]

    def total(self, name: str, **labels: str) -> float:
        """The sum over those samples; 0 where there are none."""
        return sum(s.value for s in self.named(name, **labels))

    def models(self) -> list[str]:
        """The models that anything is counted for, sorted."""
        counted = [*self.named(names.BATCHES), *self.named(self.request_counter())]
        return sorted({s.labels["model"] for s in counted} - {""})

    def request_counter(self) -> str:
        """The counter of all requests: the frontend's, or where that runs as it came, of those the workers answered."""
        return names.HTTP_REQUESTS if names.HTTP_REQUESTS in self._by_name else names.REQUESTS

    def buckets(self, name: str, **labels: str) -> list[tuple[float, float]]:
        """(upper bound, cumulative count) of histogram `name`, in order; several models are added up."""
        counts: dict[float, float] = {}
        for sample in self.named(f"{name}_bucket", **labels):
            bound = float(sample.labels["le"])
            counts[bound] = counts.get(bound, 0.0) + sample.value
        return sorted(counts.items())


def parse(text: str) -> Samples:
    """Parse Prometheus' text format; names as the mended frontend spells them, also of one that runs as it came."""
    from prometheus_client.parser import text_string_to_metric_families

    # Without the type lines: the parser would append "_total" to every counter that lacks it, buckets and sums too.
    lines = "".join(line + "\n" for line in text.splitlines() if not line.startswith("#"))
    found = (
        Sample(s.name, s.labels, s.value) for family in text_string_to_metric_families(lines) for s in family.samples
    )
    return Samples(_in_seconds(sample) if sample.name == names.STOCK_QUEUE_LATENCY else sample for sample in found)


def _in_seconds(sample: Sample) -> Sample:
    return Sample(names.QUEUE_LATENCY, sample.labels, sample.value / 1e6)


def scrape(metrics_url: str, *, timeout_s: float = 10.0, verify: bool | str = True) -> Samples:
    """Fetch and parse `metrics_url` (with or without the /metrics path).

    Raises:
        NotRunningError: when nothing answers there.
    """
    import requests

    url = metrics_url if metrics_url.rstrip("/").endswith("/metrics") else metrics_url.rstrip("/") + "/metrics"
    try:
        with requests.Session() as session:
            session.trust_env = False
            reply = session.get(url, timeout=timeout_s, verify=verify)
            reply.raise_for_status()
    except requests.RequestException as e:
        raise NotRunningError(f"no metrics at {url}: {e}") from e
    return parse(reply.text)


def quantile(samples: Samples, q: float, model: str | None = None) -> float | None:
    """The `q`-quantile of request latency in seconds, of requests answered with 2xx; None without data.

    Interpolated in its bucket, whose bounds lie a tenth apart. Only the mended frontend counts latencies.
    """
    return histogram_quantile(samples.buckets(names.REQUEST_SECONDS, outcome=names.SUCCESS, **_only(model)), q)


def histogram_quantile(buckets: list[tuple[float, float]], q: float) -> float | None:
    """The `q`-quantile of a cumulative histogram with log-spaced bounds.

    Args:
        buckets: (upper bound, cumulative count), bounds ascending, the last one +Inf.
        q: between 0 and 1.
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"q must be between 0 and 1, got {q}")
    if not buckets or buckets[-1][1] == 0:
        return None
    rank = q * buckets[-1][1]
    # The first bucket is taken to be as wide, in ratio, as the second.
    lower = buckets[0][0] ** 2 / buckets[1][0] if len(buckets) > 1 and math.isfinite(buckets[1][0]) else 0.0
    below = 0.0
    for bound, count in buckets:
        if count >= rank and count > below:
            if math.isinf(bound):
                return lower
            share = (rank - below) / (count - below)
            return lower * (bound / lower) ** share if lower > 0 else bound * share
        lower, below = bound, count
    return None


def summary(samples: Samples, model: str | None = None) -> Summary:
    """The five summary fields, of one model or over all."""
    only = _only(model)
    batches = samples.total(names.BATCHES, **only)
    size_count = samples.total(f"{names.BATCH_SIZE}_count", **only)
    return Summary(
        total_requests=round(samples.total(samples.request_counter(), **only)),
        total_batches=round(batches),
        avg_batch_size=samples.total(f"{names.BATCH_SIZE}_sum", **only) / size_count if size_count else None,
        p50_latency=quantile(samples, 0.50, model),
        p95_latency=quantile(samples, 0.95, model),
    )


def _only(model: str | None) -> dict[str, str]:
    return {} if model is None else {"model": model}

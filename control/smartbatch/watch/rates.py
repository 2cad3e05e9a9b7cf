"""What every model is doing now: what the metrics endpoint's counters gained between two looks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from smartbatch_worker.contract import metrics as names

from smartbatch.remote.scrape import Samples, histogram_quantile, scrape


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One scrape."""

    taken_s: float
    """When, by the monotonic clock."""
    samples: Samples


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelView:
    """One model over the time between two looks; a figure is None where nothing happened to take it from."""

    model: str
    rps: float
    """Requests answered a second, any status; refused ones too, where the frontend counts them."""
    errors_per_s: float
    """Those of them with another status than 2xx."""
    batches_per_s: float
    avg_batch_size: float | None
    batch_sizes: dict[str, float]
    """Share of the batches in each bucket, by its upper bound."""
    avg_forward_size: float | None
    """Items that shared a forward; fewer than a batch's where these have several shapes."""
    queue_depth: float | None
    """Requests waiting, on average: the seconds that answered requests had waited, over the seconds gone by."""
    p50_s: float | None
    p95_s: float | None
    stage_s: dict[str, float]
    """Seconds a batch spends in each stage, on average."""
    measuring_workers: int
    """Workers that answer by a slower way while the fastest one is measured or built."""
    total_requests: int
    total_batches: int


def view(model: str, before: Look, after: Look) -> ModelView:
    """Compare two looks.

    A counter that shrank belongs to a server that was restarted in between: all of it is new.
    """
    seconds = after.taken_s - before.taken_s
    old, new = before.samples, after.samples
    counter = new.request_counter()
    answered = gain(old, new, counter, model=model)
    good = sum(
        gain(old, new, counter, model=model, status=status)
        for status in {s.labels["status"] for s in new.named(counter, model=model)}
        if status.startswith("2")
    )
    batches = gain(old, new, names.BATCHES, model=model)
    latency = gained_buckets(old, new, names.REQUEST_SECONDS, model=model, outcome=names.SUCCESS)
    waited_s = gain(old, new, names.QUEUE_LATENCY, model_name=model)
    return ModelView(
        model=model,
        rps=answered / seconds,
        errors_per_s=(answered - good) / seconds,
        batches_per_s=batches / seconds,
        avg_batch_size=gained_average(old, new, names.BATCH_SIZE, model),
        batch_sizes=_shares(gained_buckets(old, new, names.BATCH_SIZE, model=model)),
        avg_forward_size=gained_average(old, new, names.FORWARD_SIZE, model),
        queue_depth=waited_s / seconds if new.named(names.QUEUE_LATENCY, model_name=model) else None,
        p50_s=histogram_quantile(latency, 0.50),
        p95_s=histogram_quantile(latency, 0.95),
        stage_s={
            stage: gain(old, new, names.STAGE_SECONDS, model=model, stage=stage) / batches
            for stage in names.STAGES
            if batches
        },
        measuring_workers=round(new.total(names.MODEL_MEASURING, model=model)),
        total_requests=round(new.total(counter, model=model)),
        total_batches=round(new.total(names.BATCHES, model=model)),
    )


def look(metrics_url: str, verify: bool | str = True) -> Look:
    """Scrape now.

    Raises:
        NotRunningError: when nothing answers there.
    """
    return Look(samples=scrape(metrics_url, verify=verify), taken_s=time.monotonic())


def views(before: Look, after: Look) -> list[ModelView]:
    """Every model the server counts for."""
    return [view(model, before, after) for model in after.samples.models()]


def gain(old: Samples, new: Samples, name: str, **labels: str) -> float:
    """What a counter, summed over those labels, gained; of one that shrank, all of it."""
    before, after = old.total(name, **labels), new.total(name, **labels)
    return after - before if after >= before else after


def gained_average(old: Samples, new: Samples, histogram: str, model: str) -> float | None:
    """Of what a histogram gained; None where that is nothing."""
    count = gain(old, new, f"{histogram}_count", model=model)
    return gain(old, new, f"{histogram}_sum", model=model) / count if count else None


def gained_buckets(old: Samples, new: Samples, name: str, **labels: str) -> list[tuple[float, float]]:
    """Cumulative buckets of what a histogram gained."""
    start = dict(old.buckets(name, **labels))
    after = new.buckets(name, **labels)
    if any(count < start.get(bound, 0.0) for bound, count in after):
        return after
    return [(bound, count - start.get(bound, 0.0)) for bound, count in after]


def _shares(buckets: Sequence[tuple[float, float]]) -> dict[str, float]:
    total = buckets[-1][1] if buckets else 0.0
    if not total:
        return {}
    shares, below = {}, 0.0
    for bound, count in buckets:
        if count > below:
            shares[names.le_label(bound)] = (count - below) / total
        below = count
    return shares

"""Every metric's name and labels: the worker emits them, config/metrics.yaml declares them, the control plane scrapes
them. The mended frontend's own, which Java counts, are here too, for those who scrape them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

REQUESTS = "smartbatch_requests_total"
ITEMS = "smartbatch_items_total"
BATCHES = "smartbatch_batches_total"
BATCH_SIZE = "smartbatch_batch_size"
BATCH_LIMIT = "smartbatch_batch_limit"
LATE_BATCHES = "smartbatch_late_batches_total"
FORWARD_SIZE = "smartbatch_forward_size"
STAGE_SECONDS = "smartbatch_stage_seconds_total"
PADDING_RATIO = "smartbatch_padding_ratio"
SPLITS = "smartbatch_splits_total"
MODEL_LOADED = "smartbatch_model_loaded"
MODEL_LOAD_SECONDS = "smartbatch_model_load_seconds"
MODEL_LOADS = "smartbatch_model_loads_total"
MODEL_MEASURING = "smartbatch_model_measuring"
WEIGHTS_RANDOM = "smartbatch_model_weights_random"

HTTP_REQUESTS = "smartbatch_http_requests_total"
REQUEST_SECONDS = "smartbatch_request_seconds"
QUEUE_REQUESTS = "smartbatch_queue_requests"
QUEUE_CAPACITY = "smartbatch_queue_capacity"
WORKERS = "smartbatch_workers"
REJECTED = "smartbatch_rejected_total"
WORKER_RESTARTS = "smartbatch_worker_restarts_total"
IN_FLIGHT_BYTES = "smartbatch_in_flight_bytes"
IN_FLIGHT_LIMIT_BYTES = "smartbatch_in_flight_limit_bytes"

QUEUE_LATENCY = "ts_queue_latency_seconds_total"
"""TorchServe's own: the time that answered requests had waited, as the mended frontend spells it."""
STOCK_QUEUE_LATENCY = "ts_queue_latency_microseconds"
"""The same where the frontend runs as it came."""

STAGES = ("decode", "stack", "forward", "encode")
SPLIT_REASONS = ("oom", "poison")

ABORTED = "499"
"""The status of a request whose connection broke before all of its answer was written."""
SUCCESS = "success"
"""The outcome of a request that was answered with 2xx; any other's is "failure"."""

# name -> labels beside model and level; TorchServe adds Hostname.
COUNTERS: dict[str, tuple[str, ...]] = {
    REQUESTS: ("status",),
    ITEMS: (),
    BATCHES: (),
    LATE_BATCHES: (),
    f"{BATCH_SIZE}_bucket": ("le",),
    f"{BATCH_SIZE}_sum": (),
    f"{BATCH_SIZE}_count": (),
    f"{FORWARD_SIZE}_bucket": ("le",),
    f"{FORWARD_SIZE}_sum": (),
    f"{FORWARD_SIZE}_count": (),
    STAGE_SECONDS: ("stage",),
    SPLITS: ("reason",),
    MODEL_LOADS: (),
}
GAUGES: dict[str, tuple[str, ...]] = {
    PADDING_RATIO: (),
    WEIGHTS_RANDOM: (),
    MODEL_LOADED: ("worker",),
    MODEL_LOAD_SECONDS: ("worker",),
    MODEL_MEASURING: ("worker",),
    BATCH_LIMIT: ("worker",),
}

# The frontend's, name -> labels; absent where it runs as it came.
FRONTEND: dict[str, tuple[str, ...]] = {
    HTTP_REQUESTS: ("model", "route", "status"),
    REQUEST_SECONDS: ("model", "route", "outcome"),
    QUEUE_REQUESTS: ("model", "version"),
    QUEUE_CAPACITY: ("model", "version"),
    WORKERS: ("model", "version", "state"),
    REJECTED: ("reason",),
    WORKER_RESTARTS: ("model",),
    IN_FLIGHT_BYTES: (),
    IN_FLIGHT_LIMIT_BYTES: (),
}

BATCH_SIZE_BOUNDS: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
HISTOGRAMS: dict[str, tuple[float, ...]] = {BATCH_SIZE: BATCH_SIZE_BOUNDS, FORWARD_SIZE: BATCH_SIZE_BOUNDS}
"""The workers' own, and their buckets' bounds."""


def le_label(bound: float) -> str:
    """Spell a bucket's upper bound as Prometheus does."""
    return "+Inf" if bound == float("inf") else f"{bound:g}"


def cumulative_counts(observations: Iterable[float], bounds: tuple[float, ...]) -> dict[float, int]:
    """How many observations are at or below each bound, +Inf last; bounds below all of them are left out."""
    ascending = sorted(observations)
    counts = {bound: bisect_right(ascending, bound) for bound in (*bounds, float("inf"))}
    return {bound: count for bound, count in counts.items() if count}

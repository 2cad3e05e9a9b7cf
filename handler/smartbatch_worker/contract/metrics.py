"""Every metric's name and fixed labels, written once: the worker emits them, config/metrics.yaml declares them,
the control plane scrapes them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

REQUESTS = "smartbatch_requests_total"
ITEMS = "smartbatch_items_total"
BATCHES = "smartbatch_batches_total"
BATCH_SIZE = "smartbatch_batch_size"
STAGE_SECONDS = "smartbatch_stage_seconds_total"
REQUEST_SECONDS = "smartbatch_request_seconds"
PADDING_RATIO = "smartbatch_padding_ratio"
SPLITS = "smartbatch_splits_total"
MODEL_LOADED = "smartbatch_model_loaded"
MODEL_LOAD_SECONDS = "smartbatch_model_load_seconds"
MODEL_LOADS = "smartbatch_model_loads_total"

STAGES = ("decode", "stack", "forward", "encode")
SPLIT_REASONS = ("oom", "poison")

# name -> labels beside ModelName and Level; TorchServe adds Hostname.
COUNTERS: dict[str, tuple[str, ...]] = {
    REQUESTS: ("status",),
    ITEMS: (),
    BATCHES: (),
    f"{BATCH_SIZE}_bucket": ("le",),
    f"{BATCH_SIZE}_sum": (),
    f"{BATCH_SIZE}_count": (),
    STAGE_SECONDS: ("stage",),
    f"{REQUEST_SECONDS}_bucket": ("le",),
    f"{REQUEST_SECONDS}_sum": (),
    f"{REQUEST_SECONDS}_count": (),
    SPLITS: ("reason",),
    MODEL_LOADS: (),
}
GAUGES: dict[str, tuple[str, ...]] = {
    PADDING_RATIO: (),
    MODEL_LOADED: ("WorkerName",),
    MODEL_LOAD_SECONDS: ("WorkerName",),
}

BATCH_SIZE_BOUNDS: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
# 1 ms to 120 s in steps of 15 %: interpolation inside a bucket keeps a quantile well within 15 % of the truth.
REQUEST_SECONDS_BOUNDS: tuple[float, ...] = tuple(round(0.001 * 1.15**k, 6) for k in range(84))


def le_label(bound: float) -> str:
    """Spell a bucket's upper bound as Prometheus does."""
    return "+Inf" if bound == float("inf") else f"{bound:g}"


def cumulative_counts(observations: Iterable[float], bounds: tuple[float, ...]) -> dict[float, int]:
    """How many observations are at or below each bound, +Inf last; bounds below all of them are left out."""
    ascending = sorted(observations)
    counts = {bound: bisect_right(ascending, bound) for bound in (*bounds, float("inf"))}
    return {bound: count for bound, count in counts.items() if count}
